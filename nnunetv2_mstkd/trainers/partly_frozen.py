"""Training the conditioning alone: an adapter on a finished model, whose output for complete input stays."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from nnunetv2_mstkd.architectures.borrowing import BORROWING_WEIGHTS
from nnunetv2_mstkd.architectures.conditioning import CONDITIONING_WEIGHT
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.fit import Described, check_teacher, described
from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.models.starting_weights import Start, model_folder_of
from nnunetv2_mstkd.settings import Setting, one_of
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.own_network import ABSENCE, nnUNetTrainerOwnNetwork
from nnunetv2_mstkd.trainers.phases import Phases

EVERYTHING, CONDITIONING = PARTS = ("everything", "conditioning")


class nnUNetTrainerPartlyFrozen(nnUNetTrainerOwnNetwork):
    """Trains all of a network, or only what tells it which modalities are absent.

    Settings, where the network is nnU-Net's or MSTKDNet:
        train_only: ``conditioning`` freezes all weights but those of the setting ``conditioning``; the others
            are those of the finished model that ``init`` names. The conditioning has no effect where nothing
            is absent, so complete input gives exactly that model's output, whatever is learnt. ``everything``
            by default.
    """

    phases: Phases
    train_only: str = EVERYTHING

    @classmethod
    def settings_read(cls) -> dict[str, Setting]:
        read = super().settings_read()
        if cls.network_class is None:
            read["train_only"] = one_of(PARTS)
        return read

    def initialize(self) -> None:
        if self.train_only == CONDITIONING:
            self._check_adapter()
        super().initialize()

    def _check_adapter(self) -> None:
        says = "the setting train_only 'conditioning'"
        if self.conditioning != ABSENCE:
            raise MSTKDError(f"{says} needs the setting conditioning 'absence', or there is nothing to train")
        if self.init is None:
            raise MSTKDError(
                f"{says} keeps all other weights as they are: name the model that they are of, with"
                " nnUNetv2_mstkd plan --init MODEL_FOLDER"
            )
        if self.phases.full_epochs:
            raise MSTKDError(
                f"{says} learns nothing while nothing is absent, but these plans (or this trainer) have a"
                f" full phase of {self.phases.full_epochs} epochs; set full_phase to 0 (with a teacher:"
                " 'shared', or a model folder)"
            )
        folder = model_folder_of(Path(self.init)) if Path(self.init).is_file() else Path(self.init)
        if folder is not None and folder.is_dir():
            model = open_model_folder(folder)
            ours = Described(self.dataset_json, self.plans_manager.plans, self.configuration_name)
            check_teacher(described(model), ours, model.path.name, role="model to adapt")

    def build_beside(self) -> None:
        if self.train_only == CONDITIONING:
            self._freeze(unwrap(self.network))
        super().build_beside()

    def _freeze(self, network: nn.Module) -> None:
        """Freeze all but the conditioning."""
        if self.start is not None:
            self._check_start(self.start)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name == CONDITIONING_WEIGHT)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        self.print_to_log_file(
            f"Only the conditioning is trained: {trained} of"
            f" {sum(p.numel() for p in network.parameters())} values."
        )

    def _check_start(self, start: Start) -> None:
        """See that what is frozen is the finished model, and all of it.

        Raises:
            MSTKDError: it is not.
        """
        if any(name.startswith(BORROWING_WEIGHTS) for name in start.unused):
            raise MSTKDError(
                f"the setting train_only 'conditioning' would leave out the features that {self.init} borrows"
                " for absent modalities; set borrowing to 'stem', which keeps them as they are"
            )
        random = [name for name in start.left if name != CONDITIONING_WEIGHT]
        if not random:
            return
        says = f"the setting train_only 'conditioning' would freeze {len(random)} tensors that {self.init}"
        if all(name.startswith(BORROWING_WEIGHTS) for name in random):
            raise MSTKDError(f"{says} does not have: it borrows no features; leave borrowing 'stem' out")
        raise MSTKDError(
            f"{says} does not have for this data set (the first is {random[0]}); give a model with the same"
            " labels"
        )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.train_only == CONDITIONING:
            for module in unwrap(self.network).modules():
                # A frozen norm keeps its statistics too, and uses them as in prediction.
                if getattr(module, "track_running_stats", False):
                    module.eval()
