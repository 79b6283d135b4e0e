"""The training engine: trains runs of one architecture that differ only in seeds.

On the TensorFlow backend the runs go one after another through one compiled step. (A loop over
steps inside the compiled function is a quarter slower: TensorFlow optimizes less in there.) A
run's state is its trainable variables, its optimizer's variables and its dropout generators;
nothing else carries over from step to step, because the batch of a run at a step is a pure
function of the run and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from configs.errors import InputError
from pretrain.engine.devices import strategy_scope
from pretrain.engine.divergence import Diverged, Watch, record_divergence
from pretrain.engine.initial_weights import initial_weights
from pretrain.engine.optimizer import BertAdam
from pretrain.engine.runs import Batch, Recorder, Run
from pretrain.engine.saved_arrays import (
    Arrays,
    read_newest_checkpoint,
    remove_checkpoints,
    write_checkpoint,
)
from pretrain.engine.seeding import generator

# Distance between the dropout seeds of two devices: any large odd number.
DEVICE_SEED_STRIDE = 1_000_000_007


def assign_weights(model: keras.Model, weights: Mapping[str, NDArray[Any]], source: str) -> None:
    """Assign every trainable variable of a model.

    Parameters
    ----------
    model : keras.Model
        The architecture.
    weights : mapping of str to array
        By path; weights that the model does not have are ignored.
    source : str
        Where the weights come from, for the error.

    Raises
    ------
    InputError
        If a variable is missing or has another shape.
    """
    for variable in model.trainable_variables:
        value = weights.get(variable.path)
        if value is None or value.shape != tuple(variable.shape):
            given = "nothing" if value is None else f"shape {value.shape}"
            raise InputError(
                f"{source}: {variable.path} should have shape {tuple(variable.shape)}, found "
                f"{given}; the weights are of another architecture"
            )
        variable.assign(value)


class Engine:
    """Trains runs of one architecture.

    Parameters
    ----------
    model : keras.Model
        The architecture; its inputs and outputs are mappings.
    loss : callable
        Takes the model's outputs on some rows of a batch, these rows, and the `totals` of the
        whole batch. Returns scalars by name, `loss` among them, which added up over all rows
        are the scalars of the batch. Uses Keras operations only.
    totals : callable
        Takes a batch. Returns the sums by which the loss is divided, by name; they are added
        up over the parts of a batch.
    optimizer : BertAdam
        With the schedule that all runs share.
    strategy : tf.distribute.Strategy, optional
        Splits each batch among devices; the model was built in its scope. None for one device.
    accumulate : int
        Number of parts into which each device cuts its rows to compute one after another. The
        trained weights are the same except for rounding and dropout's random numbers.
    initializer_range : float
        Standard deviation of initial weights.
    watch : Watch, optional
        When to stop a run; by default only where its loss or weights are not finite.
    steps_per_call : int
        Steps whose batches are made together, while the steps before them are taken.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Callable[[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]], dict[str, Any]],
        totals: Callable[[Mapping[str, Any]], dict[str, Any]],
        optimizer: BertAdam,
        *,
        strategy: Any = None,
        accumulate: int = 1,
        initializer_range: float = 0.02,
        watch: Watch | None = None,
        steps_per_call: int = 20,
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            raise InputError(
                f"KERAS_BACKEND: {keras.backend.backend()} cannot train yet; use tensorflow"
            )
        self.model = model
        self.loss = loss
        self.totals = totals
        self.optimizer = optimizer
        self.strategy = strategy
        self.accumulate = accumulate
        self.initializer_range = initializer_range
        self.watch = watch or Watch()
        self.steps_per_call = steps_per_call
        self.inputs = list(model.input)
        with strategy_scope(strategy):
            optimizer.build(model.trainable_variables)
        self._trainable = {variable.path: variable for variable in model.trainable_variables}
        # Dropout generators are numbered by the process, so their order names them.
        self._dropout = {
            f"dropout/{i}": variable for i, variable in enumerate(model.non_trainable_variables)
        }
        self._optimizer = {
            f"optimizer/{variable.path}": variable
            for variable in optimizer.variables
            if not variable.path.endswith("learning_rate")
        }
        self._step: Any = None

    @property
    def least_rows(self) -> int:
        """Smallest batch: one row for every part on every device."""
        devices = 1 if self.strategy is None else int(self.strategy.num_replicas_in_sync)
        return devices * self.accumulate

    def check_rows(self, rows: int) -> None:
        """Check that a batch can be cut into equal parts.

        Raises
        ------
        InputError
            If it cannot.
        """
        if rows % self.least_rows:
            raise InputError(
                f"batch_size: {rows} cannot be cut into equal parts for "
                f"{self.least_rows // self.accumulate} devices with accumulate "
                f"{self.accumulate}; give another --devices-per-run"
            )

    def weights(self) -> Arrays:
        """Copy the trainable variables, by path."""
        return {path: np.asarray(variable) for path, variable in self._trainable.items()}

    def state(self) -> Arrays:
        """Copy everything that the next step depends on, except the run's own settings."""
        variables = {**self._trainable, **self._dropout, **self._optimizer}
        return {name: np.asarray(variable) for name, variable in variables.items()}

    def _restore(self, run: Run, state: Mapping[str, NDArray[Any]]) -> None:
        for name, variable in {**self._trainable, **self._dropout, **self._optimizer}.items():
            if name not in state or state[name].shape != tuple(variable.shape):
                raise InputError(f"{run.folder}: its checkpoint lacks {name}; remove the folder")
            variable.assign(state[name])

    def _begin(self, run: Run) -> None:
        shapes = {path: tuple(variable.shape) for path, variable in self._trainable.items()}
        start = {path: value for path, value in (run.start or {}).items() if path in shapes}
        drawn = initial_weights(shapes, run.seeds.init, self.initializer_range, known=start)
        weights = {**start, **drawn}
        assign_weights(self.model, weights, run.name)
        for name, variable in self._dropout.items():
            place = int(name.removeprefix("dropout/"))
            draws = generator(run.seeds.dropout, place).integers(2**31 - 1, size=2)
            variable.assign(draws.astype(variable.dtype))
        for variable in self._optimizer.values():
            variable.assign(np.zeros(variable.shape, variable.dtype))

    def _part(
        self, batch: Mapping[str, Any], totals: Mapping[str, Any], seeds: Sequence[Any]
    ) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """Compute the scalars and gradients of some rows, and the next dropout seeds."""
        import tensorflow as tf

        dropout = list(self._dropout.values())
        with tf.GradientTape() as tape:
            # Devices draw from different seeds, so these are not the variables' own.
            with keras.StatelessScope(list(zip(dropout, seeds, strict=True))) as scope:
                outputs = self.model({name: batch[name] for name in self.inputs}, training=True)
            scalars = self.loss(outputs, batch, totals)
        variables = [variable.value for variable in self._trainable.values()]
        # TensorFlow gives an embedding's gradient as rows, of which several can belong to one
        # entry; clipping needs the norm of their sums.
        gradients = [
            tf.convert_to_tensor(gradient) for gradient in tape.gradient(scalars["loss"], variables)
        ]
        return scalars, gradients, [scope.get_current_value(variable) for variable in dropout]

    def _parts(
        self, batch: Mapping[str, Any], totals: Mapping[str, Any], seeds: Sequence[Any]
    ) -> tuple[dict[str, Any], list[Any], list[Any]]:
        """Add up `_part` over equal parts of some rows, one after another."""
        import tensorflow as tf

        if self.accumulate == 1:
            return self._part(batch, totals, seeds)
        parts = {
            name: tf.reshape(value, [self.accumulate, -1, *value.shape[1:]])
            for name, value in batch.items()
        }

        def part(i: Any, seeds: Sequence[Any]) -> tuple[dict[str, Any], list[Any], list[Any]]:
            rows = {name: value[i] for name, value in parts.items()}
            scalars, gradients, seeds = self._part(rows, totals, seeds)
            return scalars, gradients, list(seeds)

        def add(i: Any, before: Any) -> tuple[Any, Any]:
            scalars, gradients, seeds = part(i, before[2])
            return i + 1, (*tf.nest.map_structure(tf.add, before[:2], (scalars, gradients)), seeds)

        # A loop, not copies in the graph, which could run at the same time and need the memory.
        _, sums = tf.while_loop(
            lambda i, _: i < self.accumulate,
            add,
            (tf.constant(1), part(0, seeds)),
            parallel_iterations=1,
        )
        return sums

    def _compile(self) -> Any:
        import tensorflow as tf

        strategy = self.strategy
        variables, dropout = list(self._trainable.values()), list(self._dropout.values())

        def on_one_device(batch: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
            totals, seeds = self.totals(batch), [variable.value for variable in dropout]
            if strategy is None:
                scalars, gradients, seeds = self._parts(batch, totals, seeds)
            else:
                replica = tf.distribute.get_replica_context()
                add_up = partial(replica.all_reduce, tf.distribute.ReduceOp.SUM)
                device = tf.cast(replica.replica_id_in_sync_group, tf.int32)
                # A dropout seed is a key and a counter; only the key is shifted. Device 0 draws
                # as a single device would.
                shift = tf.stack([device * DEVICE_SEED_STRIDE, 0])
                seeds = [seed + tf.cast(shift, seed.dtype) for seed in seeds]
                scalars, gradients, seeds = self._parts(batch, add_up(totals), seeds)
                # Added up before the optimizer clips them.
                gradients = add_up(gradients)
                scalars = add_up(scalars)
            self.optimizer.apply(gradients, variables)
            return scalars, seeds

        def one_step(batch: Mapping[str, Any]) -> dict[str, Any]:
            if strategy is None:
                scalars, seeds = on_one_device(batch)
            else:
                scalars, seeds = tf.nest.map_structure(
                    lambda value: strategy.experimental_local_results(value)[0],
                    strategy.run(on_one_device, args=(batch,)),
                )
            for variable, seed in zip(dropout, seeds, strict=True):
                variable.assign(seed)
            return scalars

        return tf.function(one_step, reduce_retracing=True)

    def _shared_out(self, batch: Batch) -> Any:
        """Give each device its rows of a batch."""
        if self.strategy is None:
            return batch
        import tensorflow as tf

        rows = len(next(iter(batch.values())))
        self.check_rows(rows)
        share = rows // self.strategy.num_replicas_in_sync

        def own(context: Any) -> dict[str, Any]:
            begin = context.replica_id_in_sync_group * share
            return {
                name: tf.constant(value[begin : begin + share]) for name, value in batch.items()
            }

        return self.strategy.experimental_distribute_values_from_function(own)

    def steps(self, batches: Batch) -> dict[str, NDArray[np.float32]]:
        """Take several steps from the present state.

        Parameters
        ----------
        batches : mapping of str to array [step, row, ...]
            Inputs and labels of each step.

        Returns
        -------
        dict of str to float32 array [step]
            The scalars of the loss at each step.
        """
        if self._step is None:
            self._step = self._compile()
        count = len(next(iter(batches.values())))
        taken = [
            self._step(self._shared_out({name: value[i] for name, value in batches.items()}))
            for i in range(count)
        ]
        # Read only now, so that no step waits for the scalars of the one before.
        return {
            name: np.array([float(scalars[name]) for scalars in taken], np.float32)
            for name in taken[0]
        }

    def train(
        self,
        runs: Sequence[Run],
        batch: Callable[[Run, int], Batch],
        *,
        total_steps: int,
        checkpoint_every: int,
        keep: Mapping[int, Callable[[Run, Arrays], None]],
        recorder: Callable[[Run], Recorder] | None = None,
        on_progress: Callable[[Run, int, dict[str, float]], None] = lambda run, steps, values: None,
    ) -> None:
        """Train every run, each from its newest checkpoint.

        Parameters
        ----------
        runs : sequence of Run
            They share the architecture, the schedule and the batch shape.
        batch : callable
            The batch of a run at a step; a pure function.
        total_steps : int
            Steps of each run.
        checkpoint_every : int
            Steps between training states on disk.
        keep : mapping of int to callable
            Functions by step; each is called with a run and its weights after that many steps.
        recorder : callable, optional
            Opens the loss curves of a run for writing.
        on_progress : callable
            Called with the run, the steps done since the last call (at first, the steps before
            the checkpoint) and the mean scalars over them.

        Raises
        ------
        Diverged
            If a run diverges. Its folder then holds a record of it and its newest good
            checkpoint.
        InputError
            If there is no space left for a checkpoint.
        """
        stops = sorted({*range(checkpoint_every, total_steps, checkpoint_every), *keep})
        for run in runs:
            self._train_run(run, batch, stops, checkpoint_every, keep, recorder, on_progress)

    def _train_run(
        self,
        run: Run,
        batch: Callable[[Run, int], Batch],
        stops: Sequence[int],
        checkpoint_every: int,
        keep: Mapping[int, Callable[[Run, Arrays], None]],
        recorder: Callable[[Run], Recorder] | None,
        on_progress: Callable[[Run, int, dict[str, float]], None],
    ) -> None:
        self.optimizer.peak.assign(run.learning_rate)
        newest = read_newest_checkpoint(run.folder)
        done = 0
        if newest is None:
            self._begin(run)
        else:
            done, state = newest
            self._restore(run, state)
            on_progress(run, done, {})
        pending: list[tuple[int, dict[str, float]]] = []
        above = 0
        for first, batches in self._calls(run, batch, done, stops):
            values = self.steps(batches)
            count = len(values["loss"])
            done = first + count
            means = {name: float(np.mean(value)) for name, value in values.items()}
            try:
                above = self.watch.check_losses(run.name, first, values["loss"], above)
                if done in stops:
                    self.watch.check_weights(run.name, done, values["loss"], self.weights())
            except Diverged as diverged:
                record_divergence(run.folder, diverged, run.learning_rate)
                _record(recorder, run, [*pending, (done, means)])
                raise
            pending.append((done, means))
            if done in keep:
                keep[done](run, self.weights())
            # A state with a loss that may be diverging does not replace a good one.
            due = done in stops and done != stops[-1] and done % checkpoint_every == 0
            if due and not above:
                write_checkpoint(run.folder, done, self.state())
            if (due and not above) or done == stops[-1]:
                # Loss curves follow the checkpoints, so that a resumed run does not repeat them.
                _record(recorder, run, pending)
                pending = []
            on_progress(run, count, means)
        remove_checkpoints(run.folder)

    def _calls(
        self, run: Run, batch: Callable[[Run, int], Batch], done: int, stops: Sequence[int]
    ) -> Iterator[tuple[int, Batch]]:
        """Yield stacked batches from step `done` on, made one call ahead; none spans a stop."""
        spans = []
        for stop in stops:
            while done < stop:
                end = min(done + self.steps_per_call, stop)
                spans.append((done, end))
                done = end

        def make(span: tuple[int, int]) -> Batch:
            made = [batch(run, step) for step in range(*span)]
            return {name: np.stack([step[name] for step in made]) for name in made[0]}

        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(make, spans[0]) if spans else None
            for i, (first, _) in enumerate(spans):
                assert coming is not None
                batches = coming.result()
                coming = ahead.submit(make, spans[i + 1]) if i + 1 < len(spans) else None
                yield first, batches


def _record(
    recorder: Callable[[Run], Recorder] | None,
    run: Run,
    pending: Collection[tuple[int, dict[str, float]]],
) -> None:
    if recorder is None or not pending:
        return
    curves = recorder(run)
    for step, means in pending:
        for name, value in means.items():
            curves.add_scalar(name, value, step)
    curves.close()
