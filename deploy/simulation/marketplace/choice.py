"""Models of shoppers who read a list: position-based, cascade, dependent click (DCM), dynamic Bayesian network (DBN).

All take the attractiveness of the items in shown order. Drawing takes uniforms that belong to the item, not to the
position, so that two orders of the same list share them.

Shapes: n items of one list, or Q lists at once; the last axis is the position.
Source: Chuklin, Markov, de Rijke 2015, Click Models for Web Search, chapters 3 and 4.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.marketplace.settings import ClickModelName
from deploy.simulation.marketplace.world import Floats

DCM_CONTINUE = 0.6
DBN_CONTINUE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickModel:
    """One way to read a list.

    Attributes:
        eta, first_slot: Attention over positions of `pbm`.
    """

    name: ClickModelName
    eta: float
    first_slot: float

    def attention(self, n: int) -> Floats:
        """Return theta_k of `pbm`; 1 for the models that scan.

        >>> ClickModel(name="pbm", eta=1.0, first_slot=2.0).attention(3).round(3).tolist()
        [1.0, 0.25, 0.167]
        """
        if self.name != "pbm":
            return np.ones(n)
        theta_n = np.arange(1, n + 1, dtype=np.float64) ** -self.eta / self.first_slot
        theta_n[0] = 1.0
        return theta_n

    def examined(self, attract_n: Floats, satisfy_n: Floats) -> Floats:
        """Return the probability that each position is looked at."""
        attention_n = np.broadcast_to(self.attention(attract_n.shape[-1]), attract_n.shape)
        if self.name == "pbm":
            return attention_n
        go_on_n = self._go_on(attract_n, satisfy_n)
        examined_n = np.ones_like(attract_n)
        examined_n[..., 1:] = np.cumprod(go_on_n, axis=-1)[..., :-1]
        return examined_n

    def no_click(self, attract_n: Floats) -> Floats:
        """Return the probability that the list gets no click at all."""
        if self.name != "dbn":
            free_n: Floats = np.prod(1 - self.attention(attract_n.shape[-1]) * attract_n, axis=-1)
            return free_n
        free = np.ones(attract_n.shape[:-1])
        for k in reversed(range(attract_n.shape[-1])):
            free = (1 - attract_n[..., k]) * (DBN_CONTINUE * free + (1 - DBN_CONTINUE))
        return free

    def clicks(self, attract_n: Floats, satisfy_n: Floats, uniform_3n: Floats) -> NDArray[np.bool_]:
        """Draw which positions of one list are clicked; rows of uniforms: click, stop after a click, go on."""
        wanted_n: NDArray[np.bool_] = uniform_3n[0] < self.attention(len(attract_n)) * attract_n
        if self.name == "pbm":
            return wanted_n
        clicked_n = np.zeros(len(attract_n), dtype=np.bool_)
        for k in range(len(attract_n)):
            clicked_n[k] = wanted_n[k]
            if self._stops(clicked=bool(wanted_n[k]), satisfy=float(satisfy_n[k]), uniforms=uniform_3n[1:, k]):
                break
        return clicked_n

    def _go_on(self, attract_n: Floats, satisfy_n: Floats) -> Floats:
        if self.name == "cascade":
            return 1 - attract_n
        if self.name == "dcm":
            return 1 - attract_n + attract_n * DCM_CONTINUE
        return DBN_CONTINUE * (1 - attract_n * satisfy_n)

    def _stops(self, *, clicked: bool, satisfy: float, uniforms: Floats) -> bool:
        if self.name == "cascade":
            return clicked
        if self.name == "dcm":
            return clicked and bool(uniforms[0] >= DCM_CONTINUE)
        return (clicked and bool(uniforms[0] < satisfy)) or bool(uniforms[1] >= DBN_CONTINUE)
