"""The writer of a lineage's versions: the weights as they are, with a manifest that holds what gates judge.

Source: docs/training.md, "Versions".
"""

from dataclasses import asdict

import msgspec
import torch

from stream.failpoints import Failpoint
from stream.replicas.catalogue import Catalogue
from trainer.features import SCHEMAS
from trainer.feed.batches import Position
from trainer.gate_evidence import GateEvidence
from trainer.learning import drill, gate_numbers
from trainer.learning.learner import Learner
from trainer.lineage import Lineage
from trainer.models import architecture_hash, encode_config
from trainer.settings import TrainerSettings
from trainer.versions import artifact, writing
from trainer.versions.base_choice import BaseChoice
from trainer.versions.checkpoint import Adoption, Origin, Published
from trainer.versions.publisher import Publisher


class VersionWriter:
    """A writer of versions to disk; the registry learns of them when a checkpoint names them.

    Args:
        lineage: Identity of the lineage.
        learner: The learner whose weights are written.
        publisher: Folder, term and keys of the versions.
        evidence: Numbers of the gates that are measured on held-back lists.
        settings: Settings of the process.
        failpoint: Called with the name of each step, for crash tests.
    """

    def __init__(
        self,
        lineage: Lineage,
        learner: Learner,
        publisher: Publisher,
        *,
        evidence: GateEvidence,
        settings: TrainerSettings,
        failpoint: Failpoint,
    ) -> None:
        self._lineage = lineage
        self._learner = learner
        self._publisher = publisher
        self._evidence = evidence
        self._settings = settings
        self._failpoint = failpoint
        self._architecture = architecture_hash(lineage.model, learner.config)
        self._base_choice = BaseChoice(
            max_share=settings.version_delta_share,
            keep_versions=settings.keep_versions,
            rows_dtype=settings.rows_dtype,
            keys=publisher.keys,
        )

    def write(
        self,
        former: Published,
        catalogue: Catalogue,
        position: Position,
        *,
        adopted: tuple[Adoption, ...],
        origin: Origin | None,
    ) -> Published:
        """Write the version that follows `former`, in full or as the rows that changed, and return what it is.

        Args:
            former: The newest version.
            catalogue: Items as of the boundary.
            position: The boundary, up to which the weights have learned.
            adopted: Settings that were taken over from other ones.
            origin: Version that the lineage started from.

        Raises:
            WriteError: If the disk refuses.
        """
        learner = self._learner
        norm = learner.weights.norm()
        manifest = self._manifest(former, catalogue, position, norm)
        manifest = msgspec.structs.replace(manifest, adopted=adopted, origin=origin)
        folder = self._publisher.folder
        changed = self._base_choice.changed(folder, former.base, manifest, learner.changed_since)
        base = None if changed is None else former.base
        assert learner.golden is not None, "checked by the caller"
        sha256 = writing.publish(
            folder,
            msgspec.structs.replace(manifest, base=base),
            learner.params,
            learner.id_maps,
            learner.golden,
            changed=changed,
            rows_dtype=torch.float16 if self._settings.rows_dtype == "float16" else torch.float32,
            with_graph=self._settings.onnx_graph,
            int8=self._settings.int8,
            keys=self._publisher.keys,
            failpoint=lambda name: self._failpoint(f"artifact.{name}"),
        )
        return Published(
            version=manifest.version,
            artifact=sha256,
            base=base or sha256,
            batch_number=learner.batch_number,
            norm=norm,
        )

    def _manifest(self, former: Published, catalogue: Catalogue, position: Position, norm: float) -> artifact.Manifest:
        learner, lineage, number = self._learner, self._lineage, former.version + 1
        assert position.boundary_ts is not None, "versions are written at boundaries"
        # Before the policy is read anew: it may name this very version, whose lists were learned as they are.
        drilled = drill.numbers(lineage.name, number) if number == self._evidence.drill_version else {}
        return artifact.Manifest(
            lineage=lineage.name,
            version=number,
            parent=former.artifact,
            term=self._publisher.term,
            model=learner.model,
            profile=lineage.profile,
            config=encode_config(learner.config),
            learning=asdict(lineage.learning),
            architecture=self._architecture,
            feature_schema=SCHEMAS[lineage.config.feature_schema].sha256,
            image_space=catalogue.image_space,
            text_space=catalogue.text_space,
            cursors=dict(position.cursors),
            boundary_ts=position.boundary_ts,
            metrics={f"prequential_{name}": value for name, value in learner.prequential.means().items()}
            | learner.shuffled.means()
            | drilled
            | gate_numbers.norm_change(norm, former.norm)
            | self._evidence.numbers(catalogue),
            capacities=dict(learner.weights.capacities),
            num_sessions=learner.counters["trained"],
            code_version=lineage.code_version,
        )
