"""The pretraining stage: vocabulary, tokenized corpus, and an encoder for every size and seed."""

from __future__ import annotations

import logging

from configs.folder import prepare_folder
from configs.paths import encoder_file, run_folder
from configs.schema import Checkpoints, Experiment
from pretrain.encoders import import_encoders, largest_first
from pretrain.engine.divergence import has_diverged, log_skipped_runs
from pretrain.jobs.backend import backend_log, start_backend
from pretrain.jobs.claims import claimed, tidy_run
from pretrain.jobs.sharing import share_out
from pretrain.preparation import check_prepared, prepare_corpus, prepare_vocabulary
from pretrain.training import PretrainingSession, pretrain_run

logger = logging.getLogger(__name__)


def pretrain_experiment(experiment: Experiment, workers: int | None) -> None:
    """Run the pretraining stage: vocabulary, corpus, and every run that is not finished.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    workers : int or None
        Processes that share the runs; None for as many as the devices allow.

    Raises
    ------
    InputError
        If the corpus or the vocabulary cannot be used, or the folder holds another experiment.
        If some runs diverged, after all other runs.
    """
    output = prepare_folder(experiment)
    if isinstance(experiment.pretraining, Checkpoints):
        # Its reader of Google's checkpoints is part of TensorFlow.
        start_backend(backend_log(output))
        with claimed(experiment, "pretrain/import"):
            import_encoders(experiment, experiment.pretraining)
        return
    prepare_vocabulary(experiment)
    prepare_corpus(experiment, workers)
    runs = [
        (size.name, seed)
        for size in largest_first(experiment.sizes)
        for seed in experiment.pretrain_seeds
    ]
    absent = [run for run in runs if not encoder_file(output, *run).is_file()]
    for run in set(runs) - set(absent):
        tidy_run(experiment, run_folder(output, *run), _claim(run))
    missing = [run for run in absent if not has_diverged(run_folder(output, *run))]
    log_skipped_runs("pretraining", [run_folder(output, *run) for run in absent])
    logger.info("pretraining: %d of %d runs to do", len(missing), len(runs))
    if missing:
        check_prepared(experiment)
    share_out(
        pretrain_run,
        PretrainingSession,
        experiment,
        missing,
        is_done=is_settled,
        claim=_claim,
        steps=lambda _: experiment.recipe.steps,
        workers=workers,
        label="pretraining",
    )


def is_settled(experiment: Experiment, run: tuple[str, int]) -> bool:
    """Whether the encoder of a size and pretraining seed is finished, or the run diverged."""
    output = experiment.output
    return encoder_file(output, *run).is_file() or has_diverged(run_folder(output, *run))


def _claim(run: tuple[str, int]) -> str:
    return f"pretrain/{run[0]}/p{run[1]}"
