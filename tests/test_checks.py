"""For each exercise: the blank fails, the solution passes, every known mistake gets a message of its own."""

import math

import pytest
import torch

from course_utils import checks

HALF = 0.5


def kl_terms(mu, log_var):
    return HALF * (log_var.exp() + mu**2 - 1 - log_var)


EXERCISES = {
    checks.check_kl: {
        "Right": lambda mu, log_var: kl_terms(mu, log_var).sum(1),
        "factor 1/2": lambda mu, log_var: (log_var.exp() + mu**2 - 1 - log_var).sum(1),
        "never negative": lambda mu, log_var: -kl_terms(mu, log_var).sum(1),
        "log of the variance": lambda mu, log_var: kl_terms(mu, 2 * log_var).sum(1),
        "The -1": lambda mu, log_var: (HALF * (log_var.exp() + mu**2 - log_var)).sum(1),
        "average over the latents": lambda mu, log_var: kl_terms(mu, log_var).mean(1),
        "sum over the batch": lambda mu, log_var: kl_terms(mu, log_var).sum(),
        "average over the batch": lambda mu, log_var: kl_terms(mu, log_var).sum(1).mean(),
        "KL of each latent": kl_terms,
        "expectation is taken under q": lambda mu, log_var: (
            HALF * (-log_var).exp() * (1 + mu**2) - HALF + HALF * log_var
        ).sum(1),
    },
    checks.check_loss: {
        "Right": lambda log_px, kl: (kl.sum(1) - log_px).mean(),
        "should rise": lambda log_px, kl: (log_px - kl.sum(1)).mean(),
        "averaged over": lambda log_px, kl: kl.mean() - log_px.mean(),
        "sum over the batch": lambda log_px, kl: (kl.sum(1) - log_px).sum(),
        "wrong sign": lambda log_px, kl: (-log_px - kl.sum(1)).mean(),
        "missing": lambda log_px, kl: -log_px.mean(),
        "one loss for each image": lambda log_px, kl: kl.sum(1) - log_px,
    },
    checks.check_bits_per_dim: {
        "Right": lambda log_p, n_dims: -log_p / n_dims / math.log(2),
        "turned round": lambda log_p, n_dims: log_p / n_dims / math.log(2),
        "nats per pixel": lambda log_p, n_dims: -log_p / n_dims,
        "multiply by log 2": lambda log_p, n_dims: -log_p / n_dims * math.log(2),
        "whole image": lambda log_p, n_dims: -log_p / math.log(2),
    },
    checks.check_best_variance: {
        "Right": lambda x, mu: ((x - mu) ** 2).mean(),
        "standard deviation": lambda x, mu: ((x - mu) ** 2).mean().sqrt(),
        "sum of the squared": lambda x, mu: ((x - mu) ** 2).sum(),
        "half of it": lambda x, mu: ((x - mu) ** 2).mean() / 2,
        "own mean; what counts is its": lambda x, mu: x.var(),
        "own mean; what counts is the": lambda x, mu: x.var(correction=0),
        "log of the variance": lambda x, mu: ((x - mu) ** 2).mean().log(),
    },
    checks.check_importance_weighted_bound: {
        "Right": lambda log_w: torch.logsumexp(log_w, 0) - math.log(len(log_w)),
        "mean of the logs": lambda log_w: log_w.mean(0),
        "subtract log K": lambda log_w: torch.logsumexp(log_w, 0),
        "logsumexp": lambda log_w: log_w.exp().mean(0).log(),
        "over the images": lambda log_w: torch.logsumexp(log_w, 1) - math.log(2),
        "log B": lambda log_w: torch.logsumexp(log_w, 0) - math.log(2),
    },
}
CASES = [(check, words, answer) for check, answers in EXERCISES.items() for words, answer in answers.items()]


@pytest.mark.parametrize(
    ("check", "words", "answer"), CASES, ids=[f"{check.__name__}: {words}" for check, words, _ in CASES]
)
def test_each_answer_gets_its_own_message(check, words, answer):
    verdict = check(answer)
    assert words in repr(verdict)
    assert bool(verdict) == (words == "Right")


def test_messages_of_one_exercise_differ():
    for check, answers in EXERCISES.items():
        said = [check(answer).message for answer in answers.values()]
        assert len(set(said)) == len(said)


@pytest.mark.parametrize("check", EXERCISES)
def test_a_blank_an_error_and_a_wrong_type_fail_without_raising(check):
    assert "returns nothing yet" in check(lambda *inputs: ...).message
    assert "returns nothing yet" in check(lambda *inputs: None).message
    assert "stops with ZeroDivisionError" in check(lambda *inputs: 1 / 0).message
    assert "returns a str" in check(lambda *inputs: "42").message
    assert not any((check(lambda *inputs: ...), check(lambda *inputs: None), check(lambda *inputs: "42")))


@pytest.mark.parametrize("check", EXERCISES)
def test_an_unknown_mistake_is_told_the_true_value_or_the_shape(check):
    assert "True value" in check(lambda *inputs: torch.tensor(123.0)).message or "shape" in (
        check(lambda *inputs: torch.tensor(123.0)).message
    )
    assert "shape" in check(lambda *inputs: torch.zeros(7, 7)).message
