"""Training of tasks: what a task is, one step for each method, the loop, and the run folder."""

from .config import Method as Method
from .config import TrainConfig as TrainConfig
from .evaluate import Evaluator as Evaluator
from .record import Saving as Saving
from .result import TrainResult as TrainResult
from .run_folder import RunFolder as RunFolder
from .run_folder import params_sha256 as params_sha256
from .runs import evaluate_run as evaluate_run
from .runs import load_run_model as load_run_model
from .seeds import SeedsResult as SeedsResult
from .seeds import train_seeds as train_seeds
from .state import TrainState as TrainState
from .state import make_state as make_state
from .steps import make_step as make_step
from .task import Mean as Mean
from .task import Task as Task
from .task import TaskLoss as TaskLoss
from .trainer import train as train
