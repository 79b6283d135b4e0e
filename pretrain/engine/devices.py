"""The devices that a process trains on: one device, or several that share each batch."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from configs.errors import InputError

# An environment variable, so that worker processes and `make` have it too.
PER_RUN = "DEVICES_PER_RUN"


@dataclass(frozen=True)
class Devices:
    """The devices of a machine that training can use.

    Attributes
    ----------
    kind : str
        `CPU`, `GPU` or `TPU`.
    count : int
        GPUs, TPU cores, or CPU cores.
    name : str
        Their number and their name, for the log.
    """

    kind: str
    count: int
    name: str = ""

    def processes(self, per_run: int) -> int:
        """Return how many processes train at a time by default.

        With many runs, one run on each GPU has the highest throughput, because the GPUs exchange
        nothing. All cores of a TPU belong to one process.

        Raises
        ------
        InputError
            If there are fewer than `per_run` devices.
        """
        if self.kind != "TPU" and per_run > self.count:
            raise InputError(
                f"--devices-per-run: {per_run} is more than the {self.count} {self.kind} devices "
                "present; give fewer"
            )
        return 1 if self.kind == "TPU" else self.count // per_run

    def describe(self, per_run: int, processes: int) -> str:
        """Describe the devices and their use in one line of the log."""
        if self.kind == "TPU":
            return f"{self.name}, each batch shared out among its cores (TPUStrategy)"
        shared = ", each batch shared out among them (MirroredStrategy)" if per_run > 1 else ""
        return f"{self.name} for {processes} processes, {per_run} a run{shared}"


def devices_present() -> Devices:
    """List the devices that TensorFlow sees: a TPU before GPUs, GPUs before the CPU."""
    import tensorflow as tf

    address = os.environ.get("TPU_NAME")
    if address:
        return Devices("TPU", 0, f"the TPU {address}")
    for kind in ("TPU", "GPU"):
        devices = tf.config.list_physical_devices(kind)
        if devices:
            details = tf.config.experimental.get_device_details(devices[0]) if kind == "GPU" else {}
            name = details.get("device_name", kind)
            return Devices(kind, len(devices), f"{len(devices)} {name}")
    cores = os.cpu_count() or 1
    return Devices("CPU", cores, f"{cores} CPU cores")


def devices_per_run() -> int:
    """Read how many devices share each batch of a run from the environment; 1 by default.

    Raises
    ------
    InputError
        If the environment variable is not a whole number of at least 1.
    """
    value = os.environ.get(PER_RUN, "1")
    if not value.isdigit() or int(value) < 1:
        raise InputError(f"{PER_RUN}: {value!r} is not a number of devices")
    return int(value)


def take_devices(worker: int) -> None:
    """Assign a worker process its devices; called before TensorFlow computes anything.

    Parameters
    ----------
    worker : int
        Counted from 0. If there are more workers than GPUs, several share one.
    """
    import tensorflow as tf

    per_run, present = devices_per_run(), devices_present()
    if present.kind == "GPU":
        gpus = tf.config.list_physical_devices("GPU")
        first = worker % present.processes(per_run) * per_run
        tf.config.set_visible_devices(gpus[first : first + per_run], "GPU")
        for gpu in gpus[first : first + per_run]:
            # Otherwise the first process on a GPU takes all its memory.
            tf.config.experimental.set_memory_growth(gpu, True)
    elif present.kind == "CPU" and per_run > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * per_run,
        )


def training_strategy() -> Any:
    """Make the strategy that splits batches among this process's devices; called once.

    Returns
    -------
    tf.distribute.Strategy or None
        `TPUStrategy` on a TPU, `MirroredStrategy` on several devices, None on one.
    """
    import tensorflow as tf

    kind = devices_present().kind
    if kind == "TPU":
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    devices = tf.config.list_logical_devices(kind)
    if len(devices) == 1:
        return None
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def strategy_scope(strategy: Any) -> AbstractContextManager[Any]:
    """Return the scope in which a strategy's variables are made; an empty scope for None."""
    return nullcontext() if strategy is None else strategy.scope()
