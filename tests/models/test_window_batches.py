"""Several windows in one pass give what nnU-Net's predictor gives with one."""

import weakref
from types import SimpleNamespace

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from nnunetv2_mstkd.models.window_batches import BatchingPredictor, windows_per_pass


def _network(dimensions):
    torch.manual_seed(0)
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dimensions == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    layers = nn.Sequential(conv(2, 4, 3, padding=1), norm(4), nn.LeakyReLU(), conv(4, 3, 1)).eval()
    layers.sizes = []
    layers.register_forward_pre_hook(lambda module, inputs: module.sizes.append(len(inputs[0])))
    return layers


def _predictor(kind, network, patch, **options):
    predictor = kind(
        device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **options
    )
    predictor.network, predictor.list_of_parameters = network, [network.state_dict()]
    predictor.configuration_manager = SimpleNamespace(patch_size=list(patch))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=3)
    predictor.allowed_mirroring_axes = tuple(range(len(patch)))
    return predictor


@pytest.mark.parametrize("mirroring", [False, True])
@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(
    ("patch", "image"), [((24, 20), (5, 40, 33)), ((16, 12, 16), (20, 12, 30)), ((24, 20), (3, 10, 12))]
)
def test_logits_are_those_of_single_windows(patch, image, gaussian, mirroring):
    options = {"use_gaussian": gaussian, "use_mirroring": mirroring}
    x, logits = torch.randn(2, *image), []
    for kind in (nnUNetPredictor, BatchingPredictor):
        predictor = _predictor(kind, _network(len(patch)), patch, **options)
        logits.append(predictor.predict_sliding_window_return_logits(x))
    assert logits[0].dtype == logits[1].dtype
    torch.testing.assert_close(logits[1], logits[0], atol=2e-3, rtol=2e-3)


def test_windows_share_passes_while_they_are_small():
    assert [windows_per_pass(patch) for patch in ((96, 80), (512, 512), (16, 16, 16), (128, 128, 128))] == [
        8, 1, 16, 1,
    ]  # fmt: skip
    network = _network(2)
    predictor = _predictor(BatchingPredictor, network, (96, 80), use_mirroring=False)
    predictor.predict_sliding_window_return_logits(torch.randn(2, 11, 96, 80))
    assert network.sizes == [8, 3]


def test_a_pass_without_room_leaves_nothing_behind():
    """nnU-Net tries again while it handles the error: what the frames hold would still be on the GPU."""
    network, held = _network(2), []

    def no_room(module, inputs):
        held.append(weakref.ref(inputs[0]))
        raise RuntimeError("out of memory")

    network.register_forward_pre_hook(no_room)
    predictor = _predictor(BatchingPredictor, network, (96, 80), use_mirroring=False)
    slicers = predictor._internal_get_sliding_window_slicers((5, 96, 80))
    with pytest.raises(RuntimeError, match="out of memory"):  # holds the error with its traceback
        predictor._internal_predict_sliding_window_return_logits(torch.randn(2, 5, 96, 80), slicers)
    assert [reference() for reference in held] == [None]


def test_infinite_logits_are_refused():
    network = _network(2)
    with torch.no_grad():
        network[3].bias.fill_(1e6)
    predictor = _predictor(BatchingPredictor, network, (16, 16), use_mirroring=False)
    with pytest.raises(RuntimeError, match="exceeds what float16 holds"):
        predictor.predict_sliding_window_return_logits(torch.randn(2, 3, 16, 16))
