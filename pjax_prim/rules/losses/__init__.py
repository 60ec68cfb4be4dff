"""Losses: conditions on outputs, where constraint graphs end. One file for each."""

from .absolute_error import AbsoluteError as AbsoluteError
from .at_most import AtMost as AtMost
from .base import Condition as Condition
from .base import Loss as Loss
from .binary_cross_entropy import BinaryCrossEntropy as BinaryCrossEntropy
from .cross_entropy import CrossEntropy as CrossEntropy
from .equality import Equality as Equality
from .huber import Huber as Huber
from .kl_divergence import KLDivergence as KLDivergence
from .margin import Margin as Margin
from .minimise import Minimise as Minimise
from .own import OwnLoss as OwnLoss
from .squared_error import SquaredError as SquaredError
