"""The pretraining stage: vocabulary, tokenized corpus, and an encoder for every size and seed."""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tensorboard.summary import Writer
from tqdm import tqdm

from configs.atomic import write_text
from configs.errors import FieldError, InputError
from configs.folder import prepare_folder
from configs.paths import corpus_folder, encoder_file, run_folder, vocabulary_file
from configs.schema import Checkpoints, Experiment, Size
from pretrain.batches.pair_batches import PairBatches
from pretrain.bert.encoder import build_pretraining_model, pretraining_loss, pretraining_totals
from pretrain.bert.importing import read_checkpoint
from pretrain.engine.devices import strategy_scope, training_strategy
from pretrain.engine.divergence import Watch, has_diverged, log_skipped_runs
from pretrain.engine.engine import Engine
from pretrain.engine.optimizer import BertAdam
from pretrain.engine.runs import Recorder, Run, run_seeds
from pretrain.engine.saved_arrays import (
    Arrays,
    has_remains,
    remove_checkpoints,
    remove_leftovers,
    write_arrays,
)
from pretrain.jobs.claims import Claim, claimed
from pretrain.jobs.sharing import Advance, share_out
from pretrain.text.corpus import check_corpus, open_corpus, read_manifest, tokenize_corpus
from pretrain.text.sources import open_texts, sample_documents
from pretrain.text.wordpiece import (
    build_tokenizer,
    read_vocabulary,
    train_vocabulary,
    write_vocabulary,
)

logger = logging.getLogger(__name__)

# Checkpoints bring their own vocabulary; until they are there, BERT's uncased one is assumed.
BERT_VOCABULARY = 30522


def pretrained_seeds(experiment: Experiment, size: str) -> list[int]:
    """Pretraining seeds of a size whose encoders are there."""
    return [
        seed
        for seed in experiment.pretrain_seeds
        if encoder_file(experiment.output, size, seed).is_file()
    ]


def vocabulary_size(experiment: Experiment) -> int:
    """Count the entries of the experiment's vocabulary, or those that it will have.

    Raises
    ------
    FieldError
        If the vocabulary's file cannot be read.
    """
    made = vocabulary_file(experiment.output)
    if made.is_file():
        return len(read_vocabulary(made))
    given = experiment.vocabulary
    if given is None:
        return BERT_VOCABULARY
    if given.file is not None:
        try:
            return len(read_vocabulary(given.file))
        except InputError as error:
            raise FieldError(f"vocabulary.file: {error.message}") from error
    assert given.size is not None  # the schema asks for one of the two
    return given.size


def largest_first(sizes: list[Size]) -> list[Size]:
    """Order sizes so that the longest runs are not the last to start."""
    return sorted(sizes, key=lambda size: -size.layers * size.hidden**2)


def pretrain_experiment(experiment: Experiment, workers: int) -> None:
    """Do whatever of the pretraining stage is missing.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    workers : int
        Processes to share the runs out among.

    Raises
    ------
    InputError
        If the corpus or the vocabulary cannot be used, or the folder holds another
        experiment; after all other runs, if some diverged.
    """
    output = prepare_folder(experiment)
    if isinstance(experiment.pretraining, Checkpoints):
        with claimed(experiment, "pretrain/import"):
            import_encoders(experiment, experiment.pretraining)
        return
    _prepare_vocabulary(experiment, output)
    _prepare_corpus(experiment, output, workers)
    runs = [
        (size.name, seed)
        for size in largest_first(experiment.sizes)
        for seed in experiment.pretrain_seeds
    ]
    absent = [run for run in runs if not encoder_file(output, *run).is_file()]
    for run in set(runs) - set(absent):
        tidy_run(experiment, run_folder(output, *run), _claim(run))
    missing = [item for item in absent if not has_diverged(run_folder(output, *item))]
    log_skipped_runs("pretraining", [run_folder(output, *item) for item in absent])
    logger.info("pretraining: %d of %d runs to do", len(missing), len(runs))
    if missing:
        _check_inputs(output)
    share_out(
        pretrain_run,
        experiment,
        missing,
        is_done=is_settled,
        claim=_claim,
        steps=lambda _: experiment.recipe.steps,
        workers=workers,
        label="pretraining",
    )


def is_settled(experiment: Experiment, run: tuple[str, int]) -> bool:
    """Whether the encoder of a size and pretraining seed is there, or the run diverged."""
    output = experiment.output
    return encoder_file(output, *run).is_file() or has_diverged(run_folder(output, *run))


def _claim(run: tuple[str, int]) -> str:
    return f"pretrain/{run[0]}/p{run[1]}"


def tidy_run(experiment: Experiment, folder: Path, name: str) -> None:
    """Remove what a process left in a run's folder that was killed when the run was done.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment.
    folder : Path
        The run's folder.
    name : str
        Name of its claim.
    """
    claim = Claim(experiment, name)
    if (claim.path.exists() or has_remains(folder)) and claim.take():
        try:
            remove_leftovers(folder)
            remove_checkpoints(folder)
        finally:
            claim.give_back()


def import_encoders(experiment: Experiment, settings: Checkpoints) -> None:
    """Read the checkpoints that are not here yet, and keep them as pretraining would.

    Raises
    ------
    InputError
        If a checkpoint cannot be used, or has another vocabulary than those before it; these
        stay.
    """
    output = experiment.output
    vocabulary = vocabulary_file(output)
    runs = [(size, seed) for size in experiment.sizes for seed in experiment.pretrain_seeds]
    missing = [
        (size, seed)
        for size, seed in runs
        if not (vocabulary.is_file() and encoder_file(output, size.name, seed).is_file())
    ]
    logger.info("pretraining: %d of %d checkpoints to import", len(missing), len(runs))
    for size, seed in tqdm(missing, desc="importing", unit=" checkpoint", disable=not missing):
        checkpoint = settings.checkpoint(size.name, seed)
        found = read_checkpoint(checkpoint, size, settings)
        if not vocabulary.is_file():
            write_vocabulary(vocabulary, found.vocabulary)
        elif found.vocabulary != read_vocabulary(vocabulary):
            raise InputError(
                f"{checkpoint}: its vocabulary is not that of the checkpoints imported before "
                f"({vocabulary}); all of an experiment must share one"
            )
        folder = run_folder(output, size.name, seed)
        remove_leftovers(folder)
        write_text(folder / "source.json", json.dumps(found.source, indent=2) + "\n")
        write_arrays(encoder_file(output, size.name, seed), found.weights)
        heads = sorted(
            {path.split("/")[0] for path in found.weights} & {"masked_token", "next_sentence"}
        )
        logger.debug(
            "imported %s/p%d: %s, with the heads: %s",
            size.name,
            seed,
            checkpoint,
            ", ".join(heads) or "none",
        )


def _prepare_vocabulary(experiment: Experiment, output: Path) -> None:
    target = vocabulary_file(output)
    if not target.is_file():
        with claimed(experiment, "vocabulary"):
            if not target.is_file():
                _make_vocabulary(experiment, target)


def _make_vocabulary(experiment: Experiment, target: Path) -> None:
    settings, corpus = experiment.vocabulary, experiment.corpus
    assert settings is not None and corpus is not None  # the schema asks for both
    if settings.file is not None:
        try:
            entries = read_vocabulary(settings.file)
        except InputError as error:
            raise FieldError(f"vocabulary.file: {error.message}") from error
    else:
        assert settings.size is not None  # the schema asks for one of the two
        texts = open_texts(corpus, experiment.world)
        most = settings.megabytes * 1_000_000
        entries = train_vocabulary(
            lambda: itertools.chain.from_iterable(sample_documents(texts, most)),
            size=settings.size,
            lowercase=settings.lowercase,
        )
    write_vocabulary(target, entries)
    logger.info("vocabulary: %d entries", len(entries))


def _prepare_corpus(experiment: Experiment, output: Path, workers: int) -> None:
    folder = corpus_folder(output)
    if not (folder / "corpus.json").is_file():
        with claimed(experiment, "corpus"):
            if not (folder / "corpus.json").is_file():
                _make_corpus(experiment, folder, workers)
    manifest = read_manifest(folder)
    counts = ", ".join(f"{manifest[name]} {name}" for name in ("documents", "sentences", "tokens"))
    logger.info("corpus: %s", counts)
    if manifest["documents"] == 1 and experiment.recipe.random_next_share > 0:
        raise FieldError(
            "pretraining.random_next_share: the corpus has one document, so there is no other "
            "to draw a random next sentence from; give 0, or fewer rows_per_document"
        )


def _check_inputs(output: Path) -> None:
    """Check vocabulary and corpus against their checksums, some seconds a gigabyte."""
    read_vocabulary(vocabulary_file(output))
    folder = corpus_folder(output)
    tokens = read_manifest(folder)["tokens"]
    with tqdm(desc="checking", total=tokens, unit="token", unit_scale=True, delay=5) as bar:
        check_corpus(folder, bar.update)


def _make_corpus(experiment: Experiment, folder: Path, workers: int) -> None:
    assert experiment.corpus is not None  # the schema asks for it
    tokenizer = build_tokenizer(
        read_vocabulary(vocabulary_file(experiment.output)), lowercase=experiment.lowercase
    )
    texts = open_texts(experiment.corpus, experiment.world)
    with tqdm(desc="tokenizing", unit="B", unit_scale=True) as bar:

        def progress(done: int, total: int, resumed: bool) -> None:
            bar.total = total
            if resumed:
                # What an earlier command did says nothing of the rate.
                bar.initial += done
            bar.update(done)

        tokenize_corpus(texts, tokenizer, folder, workers=workers, on_progress=progress)


@lru_cache(maxsize=1)
def _open_batches(experiment_json: str) -> PairBatches:
    experiment = Experiment.model_validate_json(experiment_json)
    vocabulary = read_vocabulary(vocabulary_file(experiment.output))
    return PairBatches(experiment, open_corpus(corpus_folder(experiment.output)), vocabulary)


def build_engine(experiment: Experiment, size: Size, vocabulary: int) -> Engine:
    """Build the engine that pretrains one size."""
    settings, strategy = experiment.recipe, training_strategy()
    with strategy_scope(strategy):
        model = build_pretraining_model(
            size,
            vocabulary=vocabulary,
            positions=settings.sequence_length,
            dropout=settings.dropout,
            precision=settings.precision,
        )
        optimizer = BertAdam(
            settings.optimizer, warmup_steps=settings.warmup_steps, total_steps=settings.steps
        )
    return Engine(
        model,
        pretraining_loss,
        pretraining_totals,
        optimizer,
        strategy=strategy,
        accumulate=settings.accumulate,
        initializer_range=settings.initializer_range,
        watch=Watch.beyond_guessing(settings.divergence, math.log(vocabulary) + math.log(2)),
    )


@lru_cache(maxsize=1)
def _engine(experiment_json: str, size: str) -> Engine:
    experiment = Experiment.model_validate_json(experiment_json)
    return build_engine(
        experiment, experiment.size(size), len(read_vocabulary(vocabulary_file(experiment.output)))
    )


def open_recorder(run: Run) -> Recorder:
    """Open TensorBoard event files in the run's folder."""
    return Writer(str(run.folder))


def pretrain_run(experiment: Experiment, item: tuple[str, int], advance: Advance) -> str:
    """Pretrain one encoder, from its newest checkpoint if it has one.

    Parameters
    ----------
    experiment : Experiment
        The whole experiment; its vocabulary and corpus are ready.
    item : (str, int)
        Size and pretraining seed.
    advance : callable
        Called with the steps done.

    Returns
    -------
    str
        What was done, with the last loss.
    """
    size, seed = item
    as_json = experiment.model_dump_json()
    engine, batches = _engine(as_json, size), _open_batches(as_json)
    settings = experiment.recipe
    run = Run(
        name=f"{size}/p{seed}",
        folder=run_folder(experiment.output, size, seed),
        learning_rate=settings.learning_rate,
        seeds=run_seeds("pretrain", f"{size}/p{seed}"),
    )
    remove_leftovers(run.folder)
    last: dict[str, float] = {}
    resumed = 0

    def keep_as(step: int | None) -> Callable[[Run, Arrays], None]:
        target = encoder_file(experiment.output, size, seed, step)
        return lambda _, weights: write_arrays(target, weights)

    def progress(_: Run, steps: int, values: dict[str, float]) -> None:
        nonlocal resumed
        if not values:  # the steps before the checkpoint
            resumed = steps
        last.update(values)
        advance(steps)

    engine.train(
        [run],
        batches,
        total_steps=settings.steps,
        checkpoint_every=settings.checkpoint_every,
        keep={
            **{step: keep_as(step) for step in settings.kept_steps},
            settings.steps: keep_as(None),
        },
        recorder=open_recorder,
        on_progress=progress,
    )
    begun = f"resumed at step {resumed}, " if resumed else ""
    values = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    return f"pretrained {run.name}: {begun}{settings.steps} steps, {values}"
