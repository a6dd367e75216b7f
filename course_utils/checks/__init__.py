"""Checks of the exercises. Each names the mistake if it knows it, and says what to look at if it does not.

A check is given the reader's function and returns a `Verdict`, which is true if the answer is right and which
a notebook shows as a sentence. It never raises because of what the reader wrote. One file a lesson; `verdict`
has what they share.
"""

from course_utils.checks.lesson_01 import (
    check_best_variance,
    check_bits_per_dim,
    check_importance_weighted_bound,
    check_kl,
    check_loss,
)
from course_utils.checks.lesson_02 import (
    check_batch_norm,
    check_compressed_length,
    check_fold,
    check_kl_floor,
    check_running_average,
)
from course_utils.checks.lesson_03 import (
    check_conv_size,
    check_multiplications,
    check_nearest,
    check_receptive_field,
    check_sphere,
)
from course_utils.checks.lesson_04 import (
    ILLNESSES,
    check_diagnosis,
    check_free_bits,
    check_layer_kl,
    check_merge,
    check_warm_up_from_below,
)
from course_utils.checks.lesson_05 import (
    check_cost,
    check_exact_sum,
    check_label_kl,
    check_prices,
    check_suspects,
)
from course_utils.checks.lesson_06 import (
    check_coverage,
    check_hole_decibels,
    check_only,
    check_relax,
    check_residual_kl,
)
from course_utils.checks.verdict import Verdict

__all__ = [
    "ILLNESSES",
    "Verdict",
    "check_batch_norm",
    "check_best_variance",
    "check_bits_per_dim",
    "check_compressed_length",
    "check_conv_size",
    "check_cost",
    "check_coverage",
    "check_diagnosis",
    "check_exact_sum",
    "check_fold",
    "check_free_bits",
    "check_hole_decibels",
    "check_importance_weighted_bound",
    "check_kl",
    "check_kl_floor",
    "check_label_kl",
    "check_layer_kl",
    "check_loss",
    "check_merge",
    "check_multiplications",
    "check_nearest",
    "check_only",
    "check_prices",
    "check_receptive_field",
    "check_relax",
    "check_residual_kl",
    "check_running_average",
    "check_sphere",
    "check_suspects",
    "check_warm_up_from_below",
]
