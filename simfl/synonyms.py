"""Words of other tools and papers, each with the lines of a scenario that say the same.

Where a scenario has such a word, the error gives these lines. An entry is for what simfl calls
otherwise: once there is a component or a key of that name, its entry goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from simfl.errors import plain_word

__all__ = ["ANYWHERE", "KEYS", "NAMES", "instead_of_key", "instead_of_name"]

_ADAMW: Final = "client.optimizer.modules: [adam] and client.optimizer.w_decay: 0.01"
_AUGMENT: Final = "data.augment: [flip, [crop, {padding: 4}]]"
_BERT: Final = "model: {kind: huggingface, task: sequence-classification, path: bert-base-uncased}"
_CLIP: Final = "client.optimizer.modules: [[l2-global-clipping, {max_norm: 1.0}]]"
_CUTOUT: Final = "data.augment: [[cutout, {size: 8}]]"
_DIRICHLET: Final = "data.partition: {kind: dirichlet, clients: 100, alpha: 0.3}"
_FEDPROX: Final = "client.optimizer.regularizers: [[fedprox, {alpha: 0.1}]]"
_GPT: Final = "model: {kind: huggingface, task: causal-lm, path: gpt2}"
_HUB: Final = "data: {{source: huggingface, path: {}, inputs: [image], target: label}}"
_IID: Final = "data.partition: {kind: iid, clients: 100}"
_LORA: Final = "model: {{kind: huggingface, path: gpt2, lora: {{rank: 8}}{more}}}"
_MOMENTUM: Final = "client.optimizer.modules: [[momentum, {beta: 0.9}]]"
_PRIVATE: Final = (
    "client.transforms: [[clip, {max_norm: 1.0}]] and "
    "server.optimizer.modules: [[gaussian-noise, {std: 0.01}]]"
)
_RESNET: Final = "model: {kind: resnet, depth: 20}"
_TORCHVISION: Final = "model: {{kind: torchvision, architecture: {}}}"
_TRIMMED: Final = "server.aggregator: [trimmed-mean, {trim: 0.1}]"

NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "algorithm": {
        "clustered": "algorithm: [ifca, {models: 2}]",
        "dp-fedavg": _PRIVATE,
        "fedadagrad": "server.optimizer.modules: [adagrad]",
        "fedadam": "server.optimizer.modules: [adam]",
        "fedavgm": "server.optimizer.modules: [momentum]",
        "fedbn": "model.personal: [norm]",
        "feddecorr": "model.loss: [feddecorr, {layer: output}]",
        "fedgkd": "model.loss: distillation",
        "fedit": _LORA.format(more=""),
        "fedlc": "model.loss: fedlc",
        "fedmedian": "server.aggregator: median",
        "fedntd": "model.loss: [distillation, {not_true: true}]",
        "fedopt": "server.optimizer.modules: [adam]",
        "fedper": "model.personal: [output]",
        "fedprox": "client.optimizer.regularizers: [fedprox]",
        "fedrs": "model.loss: fedrs",
        "fedsa-lora": 'model.personal: ["*lora_B*"]',
        "fedsam": "model.loss: sam",
        "fedtrimmedavg": _TRIMMED,
        "fedyogi": "server.optimizer.modules: [yogi]",
        "ffa-lora": _LORA.format(more=', train: ["*lora_B*"]'),
        "krum": "server.aggregator: krum",
        "lg-fedavg": "model.personal: [hidden1]",
        "local": "algorithm: local-only",
        "maml": "algorithm: per-fedavg",
        "median": "server.aggregator: median",
        "qffl": "algorithm: [q-fedavg, {q: 1.0}]",
        "rfa": "server.aggregator: geometric-median",
    },
    "aggregator": {
        "average": "server.aggregator: mean",
        "fedadagrad": "server.optimizer.modules: [adagrad]",
        "fedadam": "server.optimizer.modules: [adam]",
        "fedavg": "server.aggregator: mean",
        "fedavgm": "server.optimizer.modules: [momentum]",
        "fednova": "algorithm: fednova",
        "fedopt": "server.optimizer.modules: [adam]",
        "fedprox": _FEDPROX,
        "fedyogi": "server.optimizer.modules: [yogi]",
        "multi-krum": "server.aggregator: [krum, {num_byzantine: 1, num_selected: 5}]",
        "rfa": "server.aggregator: geometric-median",
        "scaffold": "algorithm: scaffold",
        "weighted-average": "server.aggregator: mean and server.weighting: examples",
    },
    "module": {
        "adamw": _ADAMW,
        "clip-grad-norm": _CLIP,
        "dp-sgd": "client.sclip: 1.0 and client.optimizer.modules: [[gaussian-noise, {std: 0.05}]]",
        "fedadam": "server.optimizer.modules: [adam]",
        "fedprox": _FEDPROX,
        "lasso": "client.optimizer.regularizers: [lasso]",
        "nesterov": "client.optimizer.modules: [[momentum, {nesterov: true}]]",
        "ridge": "client.optimizer.regularizers: [ridge]",
        "sam": "model.loss: sam",
        "scaffold": "algorithm: scaffold",
        "sgd": "client.optimizer.modules: []",
        "top-k": "client.transforms: [[top-k, {fraction: 0.1}]]",
    },
    "OptimizerSection": {
        "adagrad": "client.optimizer: {lrate: 0.01, modules: [adagrad]}",
        "adam": "client.optimizer: {lrate: 0.001, modules: [adam]}",
        "adamw": "client.optimizer: {lrate: 0.001, w_decay: 0.01, modules: [adam]}",
        "momentum": "client.optimizer: {lrate: 0.01, modules: [momentum]}",
        "sgd": "client.optimizer: {lrate: 0.1}",
    },
    "ServerOptimizerSection": {
        "adagrad": "server.optimizer: {lrate: 0.01, modules: [adagrad]}",
        "adam": "server.optimizer: {lrate: 0.01, modules: [adam]}",
        "momentum": "server.optimizer: {lrate: 1.0, modules: [momentum]}",
        "sgd": "server.optimizer: {lrate: 1.0}",
        "yogi": "server.optimizer: {lrate: 0.01, modules: [yogi]}",
    },
    "regularizer": {
        "l1": "client.optimizer.regularizers: [lasso]",
        "l2": "client.optimizer.regularizers: [ridge]",
        "prox": _FEDPROX,
        "proximal": _FEDPROX,
        "weight-decay": "client.optimizer.w_decay: 0.0001",
    },
    "schedule": {
        "cosine-annealing": "client.optimizer.lrate: [cosine, {base: 0.1, length: 100}]",
        "multistep": "client.optimizer.lrate: [piecewise, {values: [0.1, 0.01], boundaries: [50]}]",
        "step": "client.optimizer.lrate: [piecewise, {values: [0.1, 0.01], boundaries: [50]}]",
    },
    "transform": {
        "fp16": "client.transforms: [[cast, {dtype: float16}]]",
        "quantization": "client.transforms: [cast]",
        "quantize": "client.transforms: [cast]",
        "sparsify": "client.transforms: [[top-k, {fraction: 0.1}]]",
    },
    "augmentation": {
        "erasing": _CUTOUT,
        "gaussian-noise": "data.augment: [[noise, {scale: 0.1}]]",
        "horizontal-flip": "data.augment: [flip]",
        "random-crop": "data.augment: [[crop, {padding: 4}]]",
        "random-erasing": _CUTOUT,
        "random-flip": "data.augment: [flip]",
        "random-horizontal-flip": "data.augment: [flip]",
    },
    "model": {
        "alexnet": _TORCHVISION.format("alexnet"),
        "bert": _BERT,
        "cnn": "model: {kind: cnn-28}",
        "densenet": _TORCHVISION.format("densenet121"),
        "efficientnet": _TORCHVISION.format("efficientnet_b0"),
        "gpt2": _GPT,
        "linear": "model: {kind: logistic}",
        "lenet": "model: {kind: cnn-28}",
        "llama": "model: {kind: huggingface, task: causal-lm, path: meta-llama/Llama-3.2-1B}",
        "logistic-regression": "model: {kind: logistic}",
        "lstm": "model: {kind: char-lstm}",
        "mobilenet": "model: {kind: mobilenet-v2}",
        "resnet20": _RESNET,
        "resnet50": _TORCHVISION.format("resnet50"),
        "rnn": "model: {kind: char-lstm}",
        "vgg16": _TORCHVISION.format("vgg16"),
        "vision-transformer": "model: {kind: vit, patch: 4}",
    },
    "loss": {
        "bce": "model.loss: bce-with-logits",
        "ce": "model.loss: cross-entropy",
        "l1": "model.loss: mae",
        "l2": "model.loss: mse",
        "nll": "model.loss: cross-entropy",
        "nll-loss": "model.loss: cross-entropy",
        "proximal": _FEDPROX,
        "smooth-l1": "model.loss: huber",
    },
    "metric": {
        "acc": "evaluation.metrics: [accuracy]",
        "em": "evaluation.metrics: [exact-match]",
        "loss": "evaluation.every: 1",
        "ppl": "evaluation.metrics: [perplexity]",
        "top-5": "evaluation.metrics: [[top-k, {k: 5}]]",
    },
    "source": {
        "arrow": "data: {source: parquet, path: table.parquet, target: label}",
        "cifar-10": "data.source: cifar10",
        "cifar-100": "data.source: cifar100",
        "fashion-mnist": _HUB.format("zalando-datasets/fashion_mnist"),
        "image-folder": "data: {source: images, path: photos}",
        "imagefolder": "data: {source: images, path: photos}",
        "imagenet": "data: {source: images, path: photos}",
        "memmap": "data: {source: npy, path: arrays}",
        "openml": "data: {source: sklearn, path: 'openml:adult'}",
        "scikit-learn": "data: {source: sklearn, path: wine}",
        "hf": _HUB.format("ylecun/mnist"),
        "numpy": "data: {source: npz, path: digits.npz}",
        "pandas": "data: {source: csv, path: table.csv, target: label}",
        "random": "data: {source: synthetic}",
    },
    "partition": {
        "by-user": "data.partition: {kind: natural}",
        "homogeneous": _IID,
        "label-skew": _DIRICHLET,
        "lda": _DIRICHLET,
        "non-iid": _DIRICHLET,
        "pathological": "data.partition: {kind: shards, clients: 100, shards_per_client: 2}",
        "quantity-skew": "data.partition: {kind: quantity, clients: 100, alpha: 0.3}",
        "random": _IID,
        "uniform": _IID,
    },
    "sampler": {
        "all": "client.per_round: null",
        "bernoulli": "client.sampler: poisson",
        "importance": "client.sampler: proportional",
        "pow-d": "client.sampler: [power-of-choice, {candidates: 30}]",
        "random": "client.sampler: uniform",
    },
    "work": {
        "random": "client.epochs: [uniform-int, {low: 1, high: 5}]",
        "uniform": "client.epochs: [uniform-int, {low: 1, high: 5}]",
    },
    "observer": {
        "tb": "output.observers: [tensorboard]",
        "csv": "output.clients: true",
    },
}
"""By kind of component, or by the section where one is written for it: the lines by name."""

ANYWHERE: Final = "section"
"""The place of keys that users look for in any section."""

KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    ANYWHERE: {
        "aggregation": "server.aggregator: mean",
        "alpha": _DIRICHLET,
        "amp": "client.precision: bf16",
        "augmentation": _AUGMENT,
        "augmentations": _AUGMENT,
        "batch_size": "client.batch_size: 32",
        "beta": _DIRICHLET,
        "c": "client.per_round: 0.1",
        "client_fraction": "client.per_round: 0.1",
        "client_lr": "client.optimizer.lrate: 0.1",
        "client_resources": "cluster: {num_cpus: 1, num_gpus: 0.25}",
        "clients_per_round": "client.per_round: 10",
        "clip_norm": _CLIP,
        "cohort_size": "client.per_round: 10",
        "comm_round": "rounds: 100",
        "communication_rounds": "rounds: 100",
        "compression": "client.transforms: [[top-k, {fraction: 0.1}]]",
        "criterion": "model.loss: cross-entropy",
        "dataset": "data: {source: digits}",
        "device": "cluster.num_gpus: 1",
        "differential_privacy": _PRIVATE,
        "dp": _PRIVATE,
        "e": "client.epochs: 5",
        "early_stopping": "stop: {metric: accuracy, patience: 10}",
        "epochs": "client.epochs: 5",
        "eval_every": "evaluation.every: 10",
        "fraction": "client.per_round: 0.1",
        "fraction_evaluate": "evaluation.clients_every: 1",
        "fraction_fit": "client.per_round: 0.1",
        "freeze": "model.fixed: [hidden1]",
        "global_rounds": "rounds: 100",
        "gpu": "cluster.num_gpus: 1",
        "gpus": "cluster.num_gpus: 1",
        "grad_clip": _CLIP,
        "gradient_clip": _CLIP,
        "learning_rate": "client.optimizer.lrate: 0.1",
        "local_batch_size": "client.batch_size: 32",
        "local_epochs": "client.epochs: 5",
        "local_steps": "client.steps: 20",
        "log_dir": "output.dir: runs",
        "logger": "output.observers: [tensorboard]",
        "loggers": "output.observers: [tensorboard]",
        "loss": "model.loss: cross-entropy",
        "lr": "client.optimizer.lrate: 0.1",
        "lr_scheduler": "client.optimizer.lrate: [cosine, {base: 0.1, length: 100}]",
        "max_grad_norm": _CLIP,
        "metrics": "evaluation.metrics: [accuracy]",
        "min_fit_clients": "client.per_round: 10",
        "mixed_precision": "client.precision: bf16",
        "momentum": _MOMENTUM,
        "monitor": "stop: {metric: accuracy, patience: 10}",
        "mu": _FEDPROX,
        "n_clients": _IID,
        "n_jobs": "cluster.actors: 4",
        "n_rounds": "rounds: 100",
        "nesterov": "client.optimizer.modules: [[momentum, {nesterov: true}]]",
        "noise_multiplier": _PRIVATE,
        "num_clients": _IID,
        "num_epochs": "client.epochs: 5",
        "num_gpus": "cluster.num_gpus: 1",
        "num_rounds": "rounds: 100",
        "num_server_rounds": "rounds: 100",
        "num_steps": "client.steps: 20",
        "num_supernodes": _IID,
        "num_workers": "cluster.actors: 4",
        "optimizer": "client.optimizer: {lrate: 0.1}",
        "output_dir": "output.dir: runs",
        "participation": "client.per_round: 0.1",
        "participation_rate": "client.per_round: 0.1",
        "partition": _IID,
        "partitioner": _IID,
        "patience": "stop.patience: 10",
        "personalization": "model.personal: [output]",
        "proximal_mu": _FEDPROX,
        "random_seed": "seed: 0",
        "random_state": "seed: 0",
        "sampler": "client.sampler: uniform",
        "save_every": "checkpoint.every: 10",
        "scheduler": "client.optimizer.lrate: [cosine, {base: 0.1, length: 100}]",
        "server_lr": "server.optimizer.lrate: 1.0",
        "server_momentum": "server.optimizer.modules: [momentum]",
        "strategy": "algorithm: fedavg",
        "target_accuracy": "stop: {metric: accuracy, target: 0.9}",
        "tensorboard": "output.observers: [tensorboard]",
        "test_size": "data.test_fraction: 0.2",
        "total_rounds": "rounds: 100",
        "val_fraction": "data.holdout_fraction: 0.2",
        "wandb": "output.observers: [wandb]",
        "weight_decay": "client.optimizer.w_decay: 0.0001",
        "workers": "cluster.actors: 4",
    },
    "OptimizerSection": {
        "beta": _MOMENTUM,
        "betas": "client.optimizer.modules: [[adam, {beta_1: 0.9, beta_2: 0.999}]]",
        "name": "client.optimizer: {lrate: 0.001, modules: [adam]}",
    },
    "ServerSection": {
        "lr": "server.optimizer.lrate: 1.0",
        "learning_rate": "server.optimizer.lrate: 1.0",
        "momentum": "server.optimizer.modules: [momentum]",
        "strategy": "server.aggregator: mean",
    },
    "ServerOptimizerSection": {
        "lr": "server.optimizer.lrate: 1.0",
        "learning_rate": "server.optimizer.lrate: 1.0",
        "momentum": "server.optimizer.modules: [momentum]",
        "name": "server.optimizer: {lrate: 0.01, modules: [adam]}",
    },
    "module": {
        "betas": "client.optimizer.modules: [[adam, {beta_1: 0.9, beta_2: 0.999}]]",
        "learning_rate": "client.optimizer.lrate: 0.1",
        "lr": "client.optimizer.lrate: 0.1",
        "momentum": _MOMENTUM,
        "weight_decay": "client.optimizer.w_decay: 0.0001",
    },
    "partition": {
        "n_clients": _IID,
        "num_clients": _IID,
        "num_partitions": _IID,
    },
    "partition dirichlet": {
        "beta": _DIRICHLET,
        "concentration": _DIRICHLET,
        "num_clients": _DIRICHLET,
        "num_partitions": _DIRICHLET,
    },
    "regularizer fedprox": {
        "lambda": _FEDPROX,
        "mu": _FEDPROX,
        "proximal_mu": _FEDPROX,
    },
    "source": {
        "transform": _AUGMENT,
        "transforms": _AUGMENT,
    },
}
"""By place, a section's class, a kind of component or a component: the lines by key."""


def _by_plain_word(table: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {
        place: {plain_word(word): lines for word, lines in words.items()}
        for place, words in table.items()
    }


_NAMES: Final = _by_plain_word(NAMES)
_KEYS: Final = _by_plain_word(KEYS)


def instead_of_name(kind: str, name: str) -> str | None:
    """Return the lines to write instead of a name of a kind; None: the table does not have it.

    >>> instead_of_name("algorithm", "FedAdam")
    'server.optimizer.modules: [adam]'
    """
    return _NAMES.get(kind, {}).get(plain_word(name))


def instead_of_key(places: Iterable[str], key: str) -> str | None:
    """Return the lines to write instead of a key, by the first place that has it, or None.

    >>> instead_of_key(("ServerSection", ANYWHERE), "learning-rate")
    'server.optimizer.lrate: 1.0'
    """
    word = plain_word(key)
    return next((_KEYS[at][word] for at in places if word in _KEYS.get(at, {})), None)
