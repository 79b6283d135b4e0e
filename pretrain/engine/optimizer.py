"""BERT's Adam.

Source: the update of Devlin et al. (2019), with the schedule of their Appendix A.2. It
differs from Kingma and Ba (2015) in that the moments are not corrected for their start at
zero, which changes the spread of finetuned models (Mosbach et al., 2021; Zhang et al., 2021).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from configs.schema import Optimizer as OptimizerSettings

_NOT_DECAYED = ("layer_norm", "bias")


class BertAdam(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay, clipping, warm-up and linear decay to 0.

    With gradient g after clipping all gradients to a global norm, at step t = 0, 1, ...:
    m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    w <- w - lr(t) (m / (sqrt(v) + epsilon) + decay w),
    where lr(t) = peak t / warmup before `warmup_steps`, then peak (1 - t / total).
    With `bias_correction`, m and v are divided by 1 - b^(t+1). LayerNorm weights and biases
    do not decay.

    Parameters
    ----------
    settings : configs.schema.Optimizer
        b1, b2, epsilon, decay, the clipping norm, and the switch for bias correction.
    warmup_steps, total_steps : int
        The schedule.
    learning_rate : float
        Peak learning rate; a variable, so that each run can have its own.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        *,
        warmup_steps: int,
        total_steps: int,
        learning_rate: float = 1e-4,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, global_clipnorm=settings.clip_norm, name="bert_adam"
        )
        self.settings = settings
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def build(self, variables: list[Any]) -> None:
        """Make both moments of every trainable variable."""
        if self.built:
            return
        super().build(variables)
        self._m, self._v = self.add_optimizer_variables(variables, ["m", "v"])
        self._decays = [
            not any(part in variable.path for part in _NOT_DECAYED) for variable in variables
        ]

    @property
    def peak(self) -> Any:
        """The variable that holds the peak learning rate of the current run."""
        return self._learning_rate

    def _get_current_learning_rate(self) -> Any:
        step = ops.cast(self._iterations, "float32")
        rate = ops.maximum(1.0 - step / self.total_steps, 0.0)
        if self.warmup_steps:
            rate = ops.where(step < self.warmup_steps, step / self.warmup_steps, rate)
        return self._learning_rate * rate

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        # Keras would sum over devices after clipping; the engine has summed already.
        return grads_and_vars

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable and its moments."""
        s = self.settings
        i = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        rate = ops.cast(learning_rate, variable.dtype)
        m, v = self._m[i], self._v[i]
        self.assign(m, m * s.beta_1 + gradient * (1.0 - s.beta_1))
        self.assign(v, v * s.beta_2 + ops.square(gradient) * (1.0 - s.beta_2))
        m_hat, v_hat = ops.convert_to_tensor(m), ops.convert_to_tensor(v)
        if s.bias_correction:
            power = ops.cast(self._iterations + 1, variable.dtype)
            m_hat = m_hat / (1.0 - ops.power(s.beta_1, power))
            v_hat = v_hat / (1.0 - ops.power(s.beta_2, power))
        update = m_hat / (ops.sqrt(v_hat) + s.epsilon)
        if s.weight_decay and self._decays[i]:
            update = update + s.weight_decay * variable
        self.assign_sub(variable, rate * update)
