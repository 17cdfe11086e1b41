import pytest
import torch
from fake_taps import fake_taps, leaves
from torch import nn

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd import objective
from nnunetv2_mstkd.methods.mstkd.objective import MSTKDObjective
from nnunetv2_mstkd.methods.mstkd.weights import TERM_NAMES, ObjectiveConfig

LOSS_FUNCTIONS = {
    "consistency": "consistency_loss",
    "kl": "standardised_kl_loss",
    "content": "content_loss",
    "token_features": "token_feature_loss",
    "attention": "attention_extremes_loss",
    "gram": "gram_matching_loss",
    "adversarial": "style_adversarial_loss",
    "foreground_kl": "foreground_kl_loss",
    "more_vs_fewer": "more_vs_fewer_loss",
}


def cross_entropy(logits, target):
    """A segmentation loss that takes deep supervision's lists, as nnU-Net's does."""
    if isinstance(logits, list):
        return torch.stack([cross_entropy(*pair) for pair in zip(logits, target, strict=True)]).sum()
    return nn.functional.binary_cross_entropy_with_logits(logits, target)


def discriminator(dims=3):
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    torch.manual_seed(0)
    return nn.Sequential(conv(6, 4, 2), nn.LeakyReLU(0.2), conv(4, 1, 3))


def step(config=None, *, variant="default", regions=True, student=None, teacher=None, target=None, **kwargs):
    student = student or fake_taps(1)
    teacher = teacher or fake_taps(2)
    if target is None:
        target = (torch.randn(student.logits.shape, generator=torch.Generator().manual_seed(5)) > 0).float()
    criterion = MSTKDObjective(
        config or ObjectiveConfig(), regions=regions, segmentation_loss=cross_entropy, variant=variant
    )
    call = {"epoch": 50, "num_epochs": 100, "style_discriminator": discriminator()} | kwargs
    return criterion(student=student, teacher=teacher, target=target, **call)


def only(*names):
    return ObjectiveConfig().with_weights({n: float(n in names) for n in TERM_NAMES})


@pytest.mark.parametrize("variant", ["default", "official"])
@pytest.mark.parametrize("train_teacher", [False, True])
def test_total_is_the_weighted_sum_of_the_named_terms(variant, train_teacher):
    config = ObjectiveConfig() if variant == "default" else ObjectiveConfig.official()
    result = step(config, variant=variant, train_teacher=train_teacher)
    expected = [n for n in TERM_NAMES if getattr(config, n) > 0]
    if not train_teacher:
        expected.remove("teacher_segmentation")
    assert list(result.terms) == list(result.weights) == expected
    by_hand = sum(getattr(config, name) * float(value.detach()) for name, value in result.terms.items())
    assert float(result.total.detach()) == pytest.approx(by_hand, rel=1e-5)
    assert sum(float(v.detach()) for v in result.weighted_terms().values()) == pytest.approx(
        by_hand, rel=1e-5
    )


@pytest.mark.parametrize("off", list(LOSS_FUNCTIONS))
def test_a_term_of_weight_zero_is_not_computed_and_the_others_once(monkeypatch, off):
    calls = []
    for name, function in LOSS_FUNCTIONS.items():
        original = getattr(objective, function)

        def counted(*, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(**kwargs)

        monkeypatch.setattr(objective, function, counted)
    step(ObjectiveConfig().with_weights({"foreground_kl": 1, "more_vs_fewer": 1} | {off: 0}))
    assert sorted(calls) == sorted(set(LOSS_FUNCTIONS) - {off})


@pytest.mark.parametrize(
    ("terms", "taps"),
    [
        (("segmentation", "kl", "consistency"), set()),
        (("segmentation", "attention"), {"attention"}),
        (("segmentation", "gram"), {"encoded", "style", "content"}),
        (("segmentation", "adversarial", "token_features"), {"style", "token_features"}),
    ],
)
def test_asks_for_no_tap_that_it_does_not_need(terms, taps):
    config = only(*terms)
    criterion = MSTKDObjective(config, regions=True, segmentation_loss=cross_entropy)
    assert set(criterion.taps) == taps
    assert criterion.distils
    assert criterion.term_names == tuple(n for n in TERM_NAMES if n in terms)

    def bare(seed):
        full = fake_taps(seed)
        return NetworkTaps(full.logits, {name: full.inner[name] for name in taps})

    result = step(config, student=bare(1), teacher=bare(2))
    assert set(result.terms) == set(terms)


def test_a_missing_tap_says_what_to_switch_off():
    teacher = fake_taps(2)
    del teacher.inner["attention"]
    with pytest.raises(MSTKDError, match="'attention': the teacher's network shows no attention; set"):
        step(teacher=teacher)
    with pytest.raises(MSTKDError, match="needs a style discriminator"):
        step(style_discriminator=None)


def test_without_a_teacher_only_the_segmentation_remains():
    criterion = MSTKDObjective(ObjectiveConfig(), regions=True, segmentation_loss=cross_entropy)
    student = fake_taps(1)
    target = torch.zeros_like(student.logits)
    result = criterion(student=student, teacher=None, target=target, epoch=0, num_epochs=1)
    assert list(result.terms) == ["segmentation"]
    assert result.total == cross_entropy(student.logits, target)


def test_default_teacher_gets_no_gradient_from_distillation():
    student, teacher = fake_taps(1), fake_taps(2)
    step(student=student, teacher=teacher).total.backward()
    assert all(t.grad is not None for t in leaves(student).values())
    assert all(t.grad is None for t in leaves(teacher).values())


def test_joint_teacher_learns_from_its_segmentation_alone():
    student, teacher = fake_taps(1), fake_taps(2)
    target = (fake_taps(3).logits > 0).float()
    step(student=student, teacher=teacher, target=target, train_teacher=True).total.backward()
    (alone,) = torch.autograd.grad(cross_entropy(teacher.logits, target), teacher.logits)
    torch.testing.assert_close(teacher.logits.grad, alone)
    assert all(t.grad is None for n, t in leaves(teacher).items() if n != "logits")


def test_official_teacher_is_pulled_by_every_term():
    teacher = fake_taps(2)
    step(
        ObjectiveConfig.official().with_weights({"gram": 1}),
        variant="official",
        teacher=teacher,
        train_teacher=True,
    ).total.backward()
    assert all(t.grad.abs().sum() > 0 for t in leaves(teacher).values())


def test_official_background_head_of_the_student_learns_from_no_dice():
    """The quirk, and the way around it for trainers whose background has to win an argmax."""
    config = ObjectiveConfig.official().with_weights({n: 0 for n in TERM_NAMES if n != "segmentation"})
    target = torch.randint(0, 3, (2, 1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    for background, learns in ((0, [False, True, True]), (2, [True, True, False]), (None, [True] * 3)):
        student = fake_taps(1)
        criterion = MSTKDObjective(config, regions=False, variant="official", background_channel=background)
        out = criterion(student=student, teacher=fake_taps(2), target=target, epoch=0, num_epochs=1)
        out.total.backward()
        assert (student.logits.grad.abs().sum((0, 2, 3, 4)) > 0).tolist() == learns


def test_official_region_heads_have_no_background():
    student = fake_taps(1)
    step(only("segmentation"), variant="official", student=student).total.backward()
    assert (student.logits.grad.abs().sum((0, 2, 3, 4)) > 0).all()


@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("variant", ["default", "official"])
def test_deep_supervision_trains_on_every_output_and_distils_from_the_finest(variant, regions):
    config = only("segmentation", "kl", "consistency")
    student = fake_taps(1, deep_supervision=True)
    teacher = fake_taps(2, deep_supervision=True)
    single = [NetworkTaps(t.finest) for t in (student, teacher)]
    target = [(x > 0).float() for x in fake_taps(3, deep_supervision=True).logits]
    if not regions:
        target = [t.argmax(1, keepdim=True).float() for t in target]
        config = config.with_weights({"segmentation": float(variant == "official")})
    listed = step(config, variant=variant, regions=regions, student=student, teacher=teacher, target=target)
    one = step(
        config, variant=variant, regions=regions, student=single[0], teacher=single[1], target=target[0]
    )
    for name in ("kl", "consistency"):
        assert listed.terms[name] == one.terms[name]
    if regions and variant == "default":
        assert listed.terms["segmentation"] == cross_entropy(student.logits, target)
    elif variant == "official":
        assert listed.terms["segmentation"] == one.terms["segmentation"]


def test_two_dimensional_taps():
    student, teacher = fake_taps(1, dims=2), fake_taps(2, dims=2)
    result = step(student=student, teacher=teacher, style_discriminator=discriminator(2))
    result.total.backward()
    assert all(t.grad is not None for t in leaves(student).values())


def test_adversarial_backward_leaves_the_discriminator_alone():
    judge, student = discriminator(), fake_taps(1)
    step(only("segmentation", "adversarial"), student=student, style_discriminator=judge).total.backward()
    assert student.inner["style"].grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in judge.parameters())


def test_ramp_and_bounds_multiply_the_weights():
    config = ObjectiveConfig()
    result = step(config, epoch=10, num_epochs=100, scales={"kl": 0.5, "gram": 0.1})
    assert result.weights["kl"] == pytest.approx(0.5 * config.weight("kl", 10, 100))
    assert 0 < result.weights["kl"] < 0.5 * config.kl
    assert result.weights["gram"] == pytest.approx(0.1 * config.gram)
    assert result.weights["content"] == config.content


def test_temperature_and_weight_of_the_kl_are_those_of_the_heads():
    config = only("segmentation", "kl")
    logits = [fake_taps(s).logits for s in (1, 2)]
    for regions, temperature in ((True, config.temperature), (False, config.label_temperature)):
        result = step(config, regions=regions)
        expected = objective.standardised_kl_loss(
            student=logits[0], teacher=logits[1], regions=regions, temperature=temperature
        )
        assert result.terms["kl"] == expected
        assert result.weights["kl"] == (1 if regions else config.label_kl_factor)


def test_default_needs_a_segmentation_loss_and_a_known_variant():
    with pytest.raises(ValueError, match="needs a segmentation_loss"):
        MSTKDObjective(ObjectiveConfig(), regions=True)
    with pytest.raises(ValueError, match="unknown variant 'paper'"):
        MSTKDObjective(ObjectiveConfig(), regions=True, segmentation_loss=cross_entropy, variant="paper")


def test_samples_in_which_the_teacher_does_not_count_still_learn_to_segment():
    student, teacher = fake_taps(1), fake_taps(2)
    config = only("segmentation", "kl", "consistency", "content", "gram", "attention", "token_features")
    whole = step(config, student=student, teacher=teacher)
    first = step(config, student=student, teacher=teacher, samples=torch.tensor([0]))
    alone = step(config, student=student.select([0]), teacher=teacher.select([0]))
    assert first.terms["segmentation"] == whole.terms["segmentation"]
    for name in set(first.terms) - {"segmentation"}:
        torch.testing.assert_close(first.terms[name], alone.terms[name])
    none = step(config, student=student, teacher=teacher, samples=torch.tensor([], dtype=torch.long))
    assert set(none.terms) == {"segmentation"}
