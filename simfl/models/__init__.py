"""Models: weights, gradients of a loss with respect to them, and evaluation.

``Model`` is the contract, ``TorchModel`` wraps any ``torch.nn.Module``. A ``ModelSpec`` is a
scenario's model; importing this package registers the built-in ones, and the losses and metrics.
"""

from simfl.models.adapters import LoRA
from simfl.models.batch_losses import (
    SAM,
    Balanced,
    ChangedLoss,
    Distillation,
    FedDecorr,
    FedLC,
    FedRS,
)
from simfl.models.class_losses import CrossEntropy, Focal
from simfl.models.class_metrics import F1, BalancedAccuracy, ClassPrecision, ClassRecall, Confusion
from simfl.models.dropout import Dropout
from simfl.models.huggingface import HuggingFaceModel
from simfl.models.loss import Loss, is_batch_loss
from simfl.models.losses import (
    MAE,
    MSE,
    BCEWithLogits,
    BinaryFocal,
    Huber,
    LossLike,
    ModelOutput,
    PythonLoss,
    as_loss,
)
from simfl.models.metric_sums import Rows
from simfl.models.metrics import (
    R2,
    Accuracy,
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    MetricLike,
    RecallAtK,
    RootMeanSquaredError,
    TopK,
    as_metrics,
)
from simfl.models.model import Batch, Inputs, MetricSums, Model, Precision
from simfl.models.model_function import ModelFunction
from simfl.models.multiple_choice import MultipleChoice
from simfl.models.names import fixed_names, personal_names, resolve_names
from simfl.models.residual import MobileNetV2, ResNet, ResNet18, ResNet34
from simfl.models.score_metrics import AUC, AveragePrecision, CalibrationError
from simfl.models.spec import DataShape, ModelSpec, PythonModel, build_module, data_shape
from simfl.models.stacked_model import StackedModel
from simfl.models.table_mlp import TableMLP
from simfl.models.token_metrics import ExactMatch, Perplexity, TokenAccuracy
from simfl.models.torch_model import TorchModel
from simfl.models.torchvision_model import TorchvisionModel
from simfl.models.unsupervised import Centers, GaussianMixture, Histogram
from simfl.models.vision_transformer import VisionTransformer
from simfl.models.zoo import CNN28, CNN32, MLP, CharLSTM, Logistic

__all__ = [
    "AUC",
    "CNN28",
    "CNN32",
    "F1",
    "MAE",
    "MLP",
    "MSE",
    "R2",
    "SAM",
    "Accuracy",
    "AveragePrecision",
    "BCEWithLogits",
    "Balanced",
    "BalancedAccuracy",
    "Batch",
    "BinaryFocal",
    "CalibrationError",
    "Centers",
    "ChangedLoss",
    "CharLSTM",
    "ClassPrecision",
    "ClassRecall",
    "Confusion",
    "CrossEntropy",
    "DataShape",
    "Distillation",
    "Dropout",
    "ExactMatch",
    "FedDecorr",
    "FedLC",
    "FedRS",
    "Focal",
    "GaussianMixture",
    "Histogram",
    "Huber",
    "HuggingFaceModel",
    "Inputs",
    "LoRA",
    "Logistic",
    "Loss",
    "LossLike",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "MetricLike",
    "MetricSums",
    "MobileNetV2",
    "Model",
    "ModelFunction",
    "ModelOutput",
    "ModelSpec",
    "MultipleChoice",
    "Perplexity",
    "Precision",
    "PythonLoss",
    "PythonModel",
    "RecallAtK",
    "ResNet",
    "ResNet18",
    "ResNet34",
    "RootMeanSquaredError",
    "Rows",
    "StackedModel",
    "TableMLP",
    "TokenAccuracy",
    "TopK",
    "TorchModel",
    "TorchvisionModel",
    "VisionTransformer",
    "as_loss",
    "as_metrics",
    "build_module",
    "data_shape",
    "fixed_names",
    "is_batch_loss",
    "personal_names",
    "resolve_names",
]
