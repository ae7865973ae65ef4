"""Training on native kernels: the loss, its gradients and the update are one compiled graph."""

from convc.train.digits import Digits, load_digits
from convc.train.sgd import Trainer, training_step

__all__ = ["Digits", "Trainer", "load_digits", "training_step"]
