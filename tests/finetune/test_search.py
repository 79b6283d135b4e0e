from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from finetune.search import choose, show


def trials(accuracy: dict[tuple[int, float], list[float]], **more: Any) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "size": "mini",
                "pretrain_seed": seed,
                "batch_size": batch,
                "learning_rate": rate,
                "accuracy": value,
                "diverged": False,
                **more,
            }
            for (batch, rate), values in accuracy.items()
            for seed, value in enumerate(values, start=1)
        ]
    )


def test_the_best_average_is_chosen_not_the_best_run() -> None:
    table = choose(
        trials({(16, 1e-4): [0.9, 0.5], (16, 5e-5): [0.8, 0.78], (32, 1e-4): [0.79, 0.78]})
    )
    assert table["accuracy"].round(6).tolist() == [0.7, 0.79, 0.785]
    assert table["pretraining_seeds"].tolist() == [2, 2, 2]
    assert table["chosen"].tolist() == [False, True, False]


def test_each_size_has_its_own() -> None:
    mini = trials({(16, 1e-4): [0.6], (32, 1e-4): [0.7]})
    table = choose(pd.concat([mini, mini.assign(size="base", accuracy=[0.9, 0.8])]))
    assert table.loc[table["chosen"], ["size", "batch_size"]].to_numpy().tolist() == [
        ["mini", 32],
        ["base", 16],
    ]


def test_a_combination_that_diverged_loses() -> None:
    good = trials({(16, 5e-5): [0.5, 0.5]}, diverged=False)
    half = trials({(16, 1e-4): [0.9]}, diverged=False)
    gone = trials({(16, 1e-4): [0.0]}, diverged=True)
    table = choose(pd.concat([half, gone, good], ignore_index=True))
    assert table["diverged"].tolist() == [1, 0]
    assert table["accuracy"].tolist() == [0.45, 0.5]
    assert table["chosen"].tolist() == [False, True]
    # Results of before there was a column of it.
    assert choose(trials({(16, 1e-4): [0.9]}))["diverged"].tolist() == [0]


def test_all_nine_are_shown() -> None:
    rates = (1e-4, 5e-5, 3e-5)
    accuracy = {
        (batch, rate): [0.7 + i / 100]
        for i, (batch, rate) in enumerate(product((16, 32, 64), rates))
    }
    text = show(choose(trials(accuracy)), 0.2)
    assert text.splitlines() == [
        "accuracy on the held-out 20% of the training instances, averaged over 1 pretraining seed "
        "(* chosen)",
        "size    batch size    rate 0.0001    rate 5e-05    rate 3e-05",
        "------  ------------  -------------  ------------  ------------",
        "mini    16            0.7000         0.7100        0.7200",
        "mini    32            0.7300         0.7400        0.7500",
        "mini    64            0.7600         0.7700        0.7800*",
    ]


def test_what_diverged_is_said() -> None:
    table = choose(trials({(16, 1e-4): [0.0]}, diverged=True))
    assert show(table, 0.2).splitlines()[-1].split() == ["mini", "16", "1", "diverged,", "0.0000*"]
