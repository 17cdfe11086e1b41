from pathlib import Path


class Modality:
    def __init__(
        self,
        modality_name,
        input_path,
        normalizer=None,
        raw_bet_output_path=None,
        raw_skull_output_path=None,
        raw_defaced_output_path=None,
        normalized_bet_output_path=None,
        normalized_skull_output_path=None,
        normalized_defaced_output_path=None,
        atlas_correction=True,
        n4_bias_correction=False,
    ):
        self.modality_name, self.input_path = modality_name, Path(input_path)
        self.raw_bet_output_path, self.raw_skull_output_path = raw_bet_output_path, raw_skull_output_path


class CenterModality(Modality):
    def __init__(
        self,
        modality_name,
        input_path,
        normalizer=None,
        raw_bet_output_path=None,
        raw_skull_output_path=None,
        raw_defaced_output_path=None,
        normalized_bet_output_path=None,
        normalized_skull_output_path=None,
        normalized_defaced_output_path=None,
        atlas_correction=True,
        n4_bias_correction=False,
        bet_mask_output_path=None,
        defacing_mask_output_path=None,
    ):
        super().__init__(
            modality_name,
            input_path,
            raw_bet_output_path=raw_bet_output_path,
            raw_skull_output_path=raw_skull_output_path,
        )
