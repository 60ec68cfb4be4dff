"""Networks for the command line: ordinary Equinox modules that know nothing of projections."""

from .cnn import CNN as CNN
from .mlp import MLP as MLP
from .network import HEADS as HEADS
from .network import NETWORKS as NETWORKS
from .network import SEQUENCE_NETWORKS as SEQUENCE_NETWORKS
from .network import Network as Network
from .network import make_network as make_network
from .recurrent import Recurrent as Recurrent
from .threshold_network import ThresholdNetwork as ThresholdNetwork
from .transformer import Transformer as Transformer
