"""Losses: conditions on outputs, where constraint graphs end. One file for each."""

from .base import Condition as Condition
from .base import Loss as Loss
from .cross_entropy import CrossEntropy as CrossEntropy
from .equality import Equality as Equality
from .margin import Margin as Margin
from .minimise import Minimise as Minimise
from .squared_error import SquaredError as SquaredError
