"""All algorithms. A new one is one file here and its name in ``ALGORITHMS``."""

from convc.algorithms.base import Algorithm, Site, Wish
from convc.algorithms.dense import Outer
from convc.algorithms.direct import Direct
from convc.algorithms.fft import Fft
from convc.algorithms.im2col import Im2col
from convc.algorithms.indexing import FindExtreme, Gather, ScatterAdd
from convc.algorithms.losses import Total
from convc.algorithms.movement import Alias, Move
from convc.algorithms.pointwise import Pointwise
from convc.algorithms.pool import Locate, Pick, Scatter, Sweep
from convc.algorithms.reduce import Reduce
from convc.algorithms.scan import Scan
from convc.algorithms.separable import Separable
from convc.algorithms.softmax import AlongClasses
from convc.algorithms.winograd import Winograd

ALGORITHMS: tuple[Algorithm, ...] = (
    Direct(),
    Direct("plain"),
    Direct("rows"),
    Winograd(2),
    Winograd(4),
    Im2col(),
    Separable(),
    Separable(terms=2),
    Separable(terms=3),
    Fft(),
    Sweep(),
    Scatter(),
    Pick(),
    Locate(),
    Outer(),
    Pointwise(),
    Alias(),
    Move(),
    Reduce(),
    Gather(),
    ScatterAdd(),
    FindExtreme(),
    Scan(),
    AlongClasses(),
    Total(),
)

__all__ = ["ALGORITHMS", "Algorithm", "Site", "Wish"]
