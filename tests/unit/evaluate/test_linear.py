import numpy as np
import pytest
import torch
from torch.nn import functional

from gmml_cluster.errors import DataError
from gmml_cluster.evaluate import linear as probe
from gmml_cluster.evaluate.features import Labelled
from gmml_cluster.evaluate.linear import FACTORS, linear


def blobs(count, seed, width=12, classes=4, spread=0.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    features = 3 + 5 * (centres[labels] + spread * rng.normal(size=(count, width)))
    return Labelled(torch.from_numpy(features).float(), torch.from_numpy(labels))


@pytest.fixture
def short(monkeypatch):
    """A schedule of 6 epochs, for rules that do not depend on its length."""
    monkeypatch.setattr(probe, "EPOCHS", 6)
    monkeypatch.setattr(probe, "WARMUP", 1)


def test_gradients_equal_those_written_out_by_hand():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(20, 6, generator=generator), torch.randint(0, 3, (20,), generator=generator)
    weight, bias = torch.randn(2, 3, 6, generator=generator), torch.randn(2, 3, generator=generator)
    found = probe.gradients(x, labels, weight, bias)
    for head in range(2):
        probability = (x @ weight[head].detach().T + bias[head].detach()).softmax(1)
        error = (probability - functional.one_hot(labels, 3)) / len(x)
        torch.testing.assert_close(found[0][head], error.T @ x)
        torch.testing.assert_close(found[1][head], error.sum(0))


def test_the_grid_of_rates_continues_while_its_edge_is_the_best(monkeypatch):
    """A stand-in for the training: the nearer a rate is to the wanted one, the more samples are hit."""

    class Heads:
        def __init__(self, factors):
            self.factors = factors

        def hits(self, samples):
            return [round(1000 - 100 * abs(np.log10(factor / wanted))) for factor in self.factors]

    tried = []

    def train(bank, *, factors, seed):
        tried.append(tuple(factors))
        return Heads(factors)

    monkeypatch.setattr(probe, "train", train)
    for wanted, rounds in ((10.0, 1), (1_000.0, 3), (1e9, 3), (0.1, 3), (1e-9, 3), (100.0, 2)):
        tried.clear()
        chosen = probe.choose_factor(blobs(60, 0), seed=0)
        assert chosen == min(max(wanted, probe.LOWER[-1]), probe.HIGHER[-1])
        assert len(tried) == rounds


def test_training_equals_a_module_trained_step_by_step(monkeypatch):
    """An independent loop: torch's BatchNorm and linear layer, autograd, LARS on the weight alone."""
    monkeypatch.setattr(probe, "EPOCHS", 3)
    monkeypatch.setattr(probe, "WARMUP", 1)
    bank = blobs(70, 0)
    heads = probe.train(bank, factors=(30.0,), seed=5)
    norm = torch.nn.BatchNorm1d(12, eps=1e-6, affine=False)
    weight = probe.initial_weights(4, 12, 5).requires_grad_()
    bias, speeds = torch.zeros(4, requires_grad=True), [torch.zeros(4, 12), torch.zeros(4)]
    for epoch in range(3):
        order = probe.shuffled(70, 5, probe.ORDER, epoch)
        for number in range(10):
            rows = order[7 * number : 7 * number + 7]
            functional.cross_entropy(
                functional.linear(norm(bank.features[rows]), weight, bias), bank.labels[rows]
            ).backward()
            lr = 30 * 0.1 * 7 / 256 * probe.rate(epoch + number / 10)
            for index, tensor in enumerate((weight, bias)):
                trust = 0.001 * tensor.norm() / tensor.grad.norm() if tensor.ndim > 1 else 1.0
                speeds[index] = 0.9 * speeds[index] + trust * tensor.grad
                tensor.data -= lr * speeds[index]
                tensor.grad = None
    torch.testing.assert_close(heads.weight[0], weight.detach())
    torch.testing.assert_close(heads.bias[0], bias.detach())
    torch.testing.assert_close(heads.mean, norm.running_mean)


def test_the_rate_warms_up_peaks_and_ends_at_nothing():
    assert probe.rate(0) == 0
    assert probe.rate(5) == 0.5
    assert probe.rate(10) == 1
    assert probe.rate(50) == pytest.approx(0.5)
    assert probe.rate(90) == pytest.approx(0)


def test_heads_do_not_disturb_each_other(short):
    bank = blobs(60, 0)
    together = probe.train(bank, factors=(1.0, 30.0), seed=0)
    alone = probe.train(bank, factors=(30.0,), seed=0)
    torch.testing.assert_close(together.weight[1], alone.weight[0])


def test_a_separable_set_is_learnt_and_reaches_the_converged_regression():
    regression = pytest.importorskip("sklearn.linear_model").LogisticRegression(max_iter=1000)
    bank, query = blobs(600, 0), blobs(300, 1)
    best = 100 * regression.fit(bank.features.numpy(), bank.labels.numpy()).score(query.features.numpy(), query.labels)
    main = next(score for score in linear(bank, query, feature="mean", seed=0) if score.main)
    assert 100 * main.accuracy > best - 3


def test_labels_without_meaning_give_chance():
    bank = blobs(400, 0, spread=50.0)
    main = next(score for score in linear(bank, blobs(600, 1, spread=50.0), feature="mean", seed=0) if score.main)
    assert abs(main.accuracy - 0.25) < 4 * main.error


def test_queries_do_not_choose_the_rate(short):
    bank, query = blobs(120, 0), blobs(40, 1)
    wrong = Labelled(query.features, (query.labels + 1) % 4)
    chosen = [[s.settings["lr"] for s in linear(bank, of, feature="mean", seed=0) if s.main] for of in (query, wrong)]
    assert chosen[0] == chosen[1]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(short):
    bank = blobs(60, 0)
    first, again, other = (probe.train(bank, factors=FACTORS, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_torch_generator_is_left_alone(short):
    before = torch.get_rng_state()
    probe.train(blobs(60, 0), factors=(1.0,), seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_small_batches_get_one_thread_large_ones_all_and_all_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with probe.fitting_threads(probe.SHARED_FROM - 1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with probe.fitting_threads(probe.SHARED_FROM):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_shuffles_are_permutations_that_differ_by_epoch():
    first, second = probe.shuffled(50, 0, probe.ORDER, 0), probe.shuffled(50, 0, probe.ORDER, 1)
    assert sorted(first.tolist()) == list(range(50)) == sorted(second.tolist())
    assert first.tolist() != second.tolist()


def test_a_bank_too_small_to_hold_out_is_refused():
    with pytest.raises(DataError, match="the bank has 29 samples"):
        linear(blobs(29, 0), blobs(5, 1), feature="mean", seed=0)
