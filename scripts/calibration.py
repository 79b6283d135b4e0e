"""How often the lower confidence bound holds, in simulations with known decaying fractions.

A lower bound holds if it is at most the true decaying fraction.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from analysis.bootstrap.bounds import ResampledPair, resample_pairs
from analysis.bootstrap.confidence_bound import pair_confidence_bounds
from analysis.bootstrap.draws import Resampling
from analysis.bootstrap.intervals import interval, repeated_draws
from analysis.statistics.counts import Counts
from analysis.statistics.decay import DecayCurves, decay_bound, decay_curves
from analysis.statistics.multisets import multisets

INSTANCE_SEED = 1
"""Seed of the instances' difficulties, which are the same in all simulations of a scenario."""

TOLERANCE = 1e-12
"""Rounding error: a bound that exceeds the true value by at most this much still holds."""


@dataclass(frozen=True)
class Scenario:
    """A distribution of prediction tensors of two sizes.

    The logit of an instance's accuracy is normal with mean 1 and standard deviation 2. For the
    larger size, that of a decaying instance is lower by 2.

    Attributes
    ----------
    name : str
    seeds : int
        Pretraining seeds of each size, even.
    runs : int
        Finetuning runs of each; 1 stands for ensembles.
    decaying : float
        Fraction of instances that decay.
    improving : float
        Rise of the larger size's logit on all other instances.
    ability : float
        Standard deviation of a seed's effect on the logits of all instances at once.
    failing : float
        Probability that a seed fails: its logits are lower by 3.
    instance_effect : float
        Standard deviation of a pretraining seed's effect on the logit of one instance, which its
        runs share.
    groups : int
        If not 0, the number of groups of instances. With probability 0.7, in either size, a model
        is correct on all instances of a group; otherwise on none.
    instances : int
        Number of instances.
    all_or_none : bool
        The counter-example to Theorem 1 for runs: accuracy 0.9 everywhere; the runs of the smaller
        size are independent, and those of a pretraining seed of the larger size are all correct or
        all wrong.
    """

    name: str
    seeds: int
    runs: int = 1
    decaying: float = 0.0
    improving: float = 0.0
    ability: float = 0.0
    failing: float = 0.0
    instance_effect: float = 0.0
    groups: int = 0
    instances: int = 500
    all_or_none: bool = False


@dataclass(frozen=True)
class Calibration:
    """Summary of the simulations of one scenario.

    Attributes
    ----------
    scenario : Scenario
    decaying : float
        True decaying fraction.
    expected_gap : float
        Largest expected gap over the thresholds, at least 0, of independent predictions: the
        bound of Theorem 1. Estimated by the mean over the simulations.
    bound : float
        Mean of the published bound.
    bound_above : float
        Share of simulations whose published bound is above the decaying fraction.
    lower : float
        Mean of the lower confidence bound.
    coverage : float
        Share of simulations whose lower confidence bound is at most the decaying fraction.
    coverage_of_gap : float
        Share of simulations whose lower confidence bound is at most `expected_gap`, a stricter
        demand.
    """

    scenario: Scenario
    decaying: float
    expected_gap: float
    bound: float
    bound_above: float
    lower: float
    coverage: float
    coverage_of_gap: float


def simulate(
    scenario: Scenario, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], float]:
    """Draw the counts of correct runs of both sizes.

    Parameters
    ----------
    scenario : Scenario
    random : numpy.random.Generator
        Source of everything but the instances' difficulties.

    Returns
    -------
    smaller, larger : ndarray of uint8, each of shape [instance, seed]
        Correct runs, 0..`scenario.runs`.
    decaying : float
        True fraction of decaying instances. The effects have the same distribution in both sizes,
        so that an instance decays exactly where its logit is lower.
    """
    instances = scenario.instances
    shape = (instances, scenario.seeds)
    if scenario.all_or_none:
        smaller = random.binomial(scenario.runs, 0.9, shape)
        larger = scenario.runs * random.binomial(1, 0.9, shape)
        return smaller.astype(np.uint8), larger.astype(np.uint8), 0.0
    if scenario.groups:
        group = np.arange(instances) * scenario.groups // instances
        sides = random.binomial(1, 0.7, (2, scenario.groups, scenario.seeds))[:, group]
        return sides[0].astype(np.uint8), sides[1].astype(np.uint8), 0.0
    logit = np.random.default_rng(INSTANCE_SEED).normal(1.0, 2.0, (instances, 1))
    decaying = np.arange(instances) < round(scenario.decaying * instances)
    change = np.where(decaying, -2.0, scenario.improving)[:, None]
    drawn = []
    for logits in (logit, logit + change):
        effect = scenario.ability * random.normal(size=(1, scenario.seeds))
        effect = effect - 3.0 * (random.random((1, scenario.seeds)) < scenario.failing)
        instance_effect = scenario.instance_effect * random.normal(size=shape)
        drawn.append(random.binomial(scenario.runs, expit(logits + effect + instance_effect)))
    return drawn[0].astype(np.uint8), drawn[1].astype(np.uint8), float(decaying.mean())


@dataclass(frozen=True)
class _Simulation:
    """Simulated counts of two sizes, their curves and their resampling."""

    counts: Counts
    decaying: float
    curves: DecayCurves
    resampling: Resampling
    resampled: dict[tuple[int, int], ResampledPair]


def _simulations(
    scenario: Scenario, simulations: int, replicates: int, seed: int
) -> Iterator[_Simulation]:
    random = np.random.Generator(np.random.Philox(seed))
    names, seeds = ("smaller", "larger"), (tuple(range(scenario.seeds)),) * 2
    for number in range(simulations):
        smaller, larger, decaying = simulate(scenario, random)
        counts = Counts(names, seeds, (smaller, larger), scenario.runs)
        curves = decay_curves(multisets(smaller), multisets(larger), scenario.runs)
        resampling = Resampling(replicates, seed + number)
        resampled = resample_pairs(counts, (0, 1), scenario.seeds, resampling)
        yield _Simulation(counts, decaying, curves, resampling, resampled)


def calibrate(scenario: Scenario, simulations: int, replicates: int, seed: int) -> Calibration:
    """Simulate a scenario and count how often the lower confidence bound holds.

    Parameters
    ----------
    scenario : Scenario
    simulations : int
        Number of simulated tensors.
    replicates : int
        Replicates of the Multi-Bootstrap of each.
    seed : int
        Seed of all draws.

    Returns
    -------
    Calibration
    """
    bounds, lowers, gaps = [], [], []
    truth = 0.0
    for simulation in _simulations(scenario, simulations, replicates, seed):
        truth = simulation.decaying
        bounds.append(decay_bound(simulation.curves).bound)
        decay, _ = pair_confidence_bounds(
            simulation.counts, scenario.seeds, simulation.resampled, simulation.resampling
        )[0, 1]
        lowers.append(decay.lower)
        gaps.append(decay.expected)
    lower = np.array(lowers)
    expected = max(float(np.mean(gaps, axis=0).max()), 0.0)
    return Calibration(
        scenario=scenario,
        decaying=truth,
        expected_gap=expected,
        bound=float(np.mean(bounds)),
        bound_above=float(np.mean(np.array(bounds) > truth + TOLERANCE)),
        lower=float(lower.mean()),
        coverage=float(np.mean(lower <= truth + TOLERANCE)),
        coverage_of_gap=float(np.mean(lower <= expected + TOLERANCE)),
    )


def interval_coverage(
    scenario: Scenario, simulations: int, replicates: int, seed: int
) -> NDArray[np.float64]:
    """Simulate a scenario and count how often the intervals of `thresholds` hold.

    Parameters
    ----------
    scenario, simulations, replicates, seed
        As in `calibrate`.

    Returns
    -------
    ndarray of float64, shape [threshold]
        For the lattice values from -1 to 0, the share of simulations whose interval contains the
        expectation of the difference (discovery minus baseline). The mean over the simulations
        estimates that expectation.
    """
    upto = scenario.seeds * scenario.runs + 1
    estimates, ends = [], []
    for simulation in _simulations(scenario, simulations, replicates, seed):
        curves, resampling = simulation.curves, simulation.resampling
        estimates.append((curves.discovery - curves.baseline)[:upto])
        weights = [resampling.seed_weights(size, scenario.seeds) for size in (0, 1)]
        repeats = np.column_stack([repeated_draws(side) for side in weights])
        differences = simulation.resampled[0, 1].decay
        ends.append(interval(estimates[-1], differences, repeats, scenario.seeds, (-1, 1)))
    expected = np.mean(estimates, axis=0)
    low, high = np.array(ends).transpose(1, 0, 2)
    covered = (low <= expected + TOLERANCE) & (expected <= high + TOLERANCE)
    return covered.mean(axis=0)
