"""ARMMT in plain loops and float64, written from the equations of the paper (arXiv 2408.05751), without torch.

Only the names of the weights and the open points of the paper come from the product: presence flags in CAFU, the
embedding of the rank, the id perspective in equation 11, and the place of the layer norm.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.configs.armmt import ArmmtConfig
from trainer.features import Batch
from trainer.features.schema import NUM_COLUMNS

Vector = NDArray[np.float64]
Weights = dict[str, Vector]


@dataclass(frozen=True)
class Scores:
    """Logits of equations 13 and 14 for the real candidates of one list."""

    logit: Vector
    click: Vector


class PlainArmmt:
    def __init__(self, config: ArmmtConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights

    def score(self, batch: Batch, row: int) -> Scores:
        candidates = [i for i in range(batch.cand_mask.shape[1]) if batch.cand_mask[row, i]]
        behaviours = [j for j in range(batch.hist_mask.shape[1]) if batch.hist_mask[row, j]]
        client = batch.client[row].astype(np.float64)
        query = np.concatenate([batch.query[row].astype(np.float64), self.row("category", batch.query_category[row])])
        context = relu(self.linear("context", np.concatenate([query, client, self.words(batch, row)])))
        keys = [self.entity(batch.hist_id[row, j]) for j in behaviours]
        sides = []
        for j in behaviours:
            kind = np.zeros(5)
            kind[min(int(batch.hist_type[row, j]), 4)] = 1
            sides.append(np.concatenate([kind, batch.hist_num[row, j].astype(np.float64)]))

        features: list[Vector] = []
        for i in candidates:
            entity = self.entity(batch.cand_id[row, i])
            interest = self.interest("ids.attention", entity, keys, sides, client)
            features.append(
                np.concatenate(
                    [
                        entity,
                        self.row("category", batch.cand_id[row, i, 3]),
                        batch.cand_num[row, i].astype(np.float64),
                        [0.0 if behaviours else 1.0],
                        interest if interest is not None else np.zeros(3 * self.config.d),
                        self.weights["rank.weight"][min(int(batch.cand_rank[row, i]), self.config.max_rank)],
                    ]
                )
            )
        hidden_id = self.perspective("ids.perspective", features, self.config.field_layers)
        hidden_mm = self.perspective(
            "mm.perspective",
            self.multimodal(batch, row, candidates, behaviours, sides, client, context),
            self.config.mm_layers,
        )
        fields = []
        for name in ("price", "sales"):
            columns = [column for column, label in enumerate(NUM_COLUMNS) if label.startswith(name)]
            values = [batch.cand_num[row, i].astype(np.float64)[columns] for i in candidates]
            fields.append(self.perspective(f"fields.{name}", values, self.config.field_layers))
        union = [np.concatenate(parts) for parts in zip(*fields, hidden_mm, hidden_id, strict=True)]  # (11)
        hidden = self.perspective("union", union, self.config.global_layers)  # (12)
        return Scores(
            logit=np.array([self.linear("logit", h)[0] for h in hidden]),  # (13)
            click=np.array([self.linear("click", h)[0] for h in hidden_mm]),  # (14)
        )

    def words(self, batch: Batch, row: int) -> Vector:
        """Return means over words and path of the query, and its vector; the paper has none of them."""
        tokens = [self.weights["words.token.weight"][token] for token in batch.query_token[row] if token]
        path = [self.row("category", slot) for slot in batch.query_path[row] if slot]
        nothing = np.zeros(self.config.d)
        vector = batch.query_vec[row].astype(np.float64)
        return np.concatenate(
            [
                sum(tokens, nothing) / max(len(tokens), 1),
                sum(path, nothing) / max(len(path), 1),
                self.linear("words.project", vector) if batch.query_vec_mask[row] else nothing,
            ]
        )

    def multimodal(
        self,
        batch: Batch,
        row: int,
        candidates: list[int],
        behaviours: list[int],
        sides: list[Vector],
        client: Vector,
        context: Vector,
    ) -> list[Vector]:
        """Return Z of equations 3 to 9."""
        fields = {
            "image": (batch.cand_img, batch.cand_img_mask, batch.hist_img, batch.hist_img_mask),
            "text": (batch.cand_txt, batch.cand_txt_mask, batch.hist_txt, batch.hist_txt_mask),
        }
        fused = []
        for i in candidates:
            items: list[Vector | None] = []
            personal: list[Vector | None] = []
            for modality, (cand, has_cand, hist, has_hist) in fields.items():
                project = f"modalities.{modality}.project"
                item = self.linear(project, cand[row, i].astype(np.float64)) if has_cand[row, i] else None
                seen = [position for position, j in enumerate(behaviours) if has_hist[row, j]]
                vectors = [self.linear(project, hist[row, behaviours[p]].astype(np.float64)) for p in seen]
                items.append(item)
                personal.append(
                    None
                    if item is None
                    else self.interest(
                        f"modalities.{modality}.attention", item, vectors, [sides[p] for p in seen], client
                    )
                )
            parts = [self.cafu("mm.cafu_item", items, context), self.cafu("mm.cafu_personal", personal, context)]
            fused.append(relu(self.linear("mm.fused.layers.0", np.concatenate([*parts, context]))))
        return fused

    def cafu(self, name: str, parts: list[Vector | None], context: Vector) -> Vector:
        means = [0.0 if part is None else sum(part) / len(part) for part in parts]  # (3)
        flags = [0.0 if part is None else 1.0 for part in parts]
        hidden = relu(self.linear(f"{name}.first", np.concatenate([means, flags, context])))  # (4), (5)
        scores = self.linear(f"{name}.second", hidden)
        result = np.zeros(self.config.d)
        for score, part in zip(scores, parts, strict=True):
            if part is not None:
                weight = max(score, 0.0) if self.config.cafu_activation == "relu" else 1 / (1 + math.exp(-score))
                result = result + weight * part  # (6)
        return result

    def interest(
        self, name: str, query: Vector, keys: list[Vector], sides: list[Vector], client: Vector
    ) -> Vector | None:
        """Return the target attention of one candidate; None without a behaviour."""
        scores = []
        for key, side in zip(keys, sides, strict=True):
            hidden = np.concatenate([query, key, query - key, query * key, side, client])
            for layer in ("first", "second"):
                hidden = self.linear(f"{name}.{layer}", hidden)
                slope = self.weights[f"{name}.{layer}_slope.weight"]
                hidden = np.array([h if h > 0 else s * h for h, s in zip(hidden, slope, strict=True)])
            scores.append(float(self.linear(f"{name}.score", hidden)[0]))
        if not scores:
            return None
        weights = scores if self.config.attention == "raw" else softmax(scores)
        total: Vector = np.sum([weight * key for weight, key in zip(weights, keys, strict=True)], axis=0)
        return total

    def perspective(self, name: str, features: list[Vector], layers: int) -> list[Vector]:
        values = [self.linear(f"{name}.input", feature) for feature in features]
        for layer in range(layers):
            values = self.encoder_layer(f"{name}.encoder.layers.{layer}", values)
        return values if self.config.post_norm else [self.norm(f"{name}.encoder.norm", value) for value in values]

    def encoder_layer(self, name: str, values: list[Vector]) -> list[Vector]:
        if self.config.post_norm:
            attended = self.attention(name, values)
            values = [self.norm(f"{name}.norm_attention", v + a) for v, a in zip(values, attended, strict=True)]
            return [self.norm(f"{name}.norm_ffn", v + self.feed(name, v)) for v in values]
        attended = self.attention(name, [self.norm(f"{name}.norm_attention", value) for value in values])
        values = [v + a for v, a in zip(values, attended, strict=True)]
        return [v + self.feed(name, self.norm(f"{name}.norm_ffn", v)) for v in values]

    def attention(self, name: str, values: list[Vector]) -> list[Vector]:
        """Return equation 1 for every candidate."""
        width, heads = self.config.width, self.config.heads
        size = width // heads
        projections = [self.weights[f"{name}.qkv.weight"] @ value for value in values]
        found = []
        for own in projections:
            mixed = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                query = own[:width][part]
                scores = [float(query @ other[width : 2 * width][part]) / math.sqrt(size) for other in projections]
                weights = softmax(scores)
                mixed.append(
                    np.sum([w * o[2 * width :][part] for w, o in zip(weights, projections, strict=True)], axis=0)
                )
            found.append(self.linear(f"{name}.out", np.concatenate(mixed)))
        return found

    def feed(self, name: str, value: Vector) -> Vector:
        return self.linear(f"{name}.ffn_out", relu(self.linear(f"{name}.ffn_in", value)))

    def norm(self, name: str, value: Vector) -> Vector:
        mean = sum(value) / len(value)
        variance = sum((value - mean) ** 2) / len(value)
        slope, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        result: Vector = (value - mean) / math.sqrt(variance + 1e-5) * slope + shift
        return result

    def linear(self, name: str, value: Vector) -> Vector:
        result: Vector = self.weights[f"{name}.weight"] @ value + self.weights[f"{name}.bias"]
        return result

    def entity(self, slots: NDArray[np.int64]) -> Vector:
        return np.concatenate([self.row(table, slots[kind]) for kind, table in enumerate(("item", "shop", "brand"))])

    def row(self, table: str, slot: int | np.int64) -> Vector:
        result: Vector = self.weights[f"rows.{table}"][int(slot)]
        return result


def relu(value: Vector) -> Vector:
    return np.array([max(v, 0.0) for v in value])


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return [power / sum(powers) for power in powers]


def total_loss(found: list[Scores], batch: Batch, aux_weight: float) -> float:
    """Return equation 17: the main loss over lists that converted, the click loss over all."""
    main, aux = [], []
    for row, scores in enumerate(found):
        n = len(scores.logit)
        conv, click = batch.conv[row, :n].astype(np.float64), batch.click[row, :n].astype(np.float64)
        if conv.sum() > 0:
            chances = softmax(scores.logit.tolist())
            main.append(-sum(y / conv.sum() * math.log(p) for y, p in zip(conv, chances, strict=True)))  # (16)
        terms = []
        for c, logit in zip(click, scores.click, strict=True):
            chance = 1 / (1 + math.exp(-logit))
            terms.append(-(c * math.log(chance) + (1 - c) * math.log(1 - chance)))
        aux.append(sum(terms) / n)  # (15)
    return float(sum(main) / len(main) + aux_weight * sum(aux) / len(aux))
