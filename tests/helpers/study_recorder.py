"""A study's workplace whose commands are written down instead of run."""

from benchmarks.study.workplace import Workplace


class Recorder(Workplace):
    """Does by hand what the commands would do, as far as the next step looks: see :meth:`leave`."""

    def __init__(self, out, data):
        super().__init__(out, data, "tiny", "cpu", 1)
        self.commands = []

    def run(self, log, line, **environment):
        words = line.split()
        self.commands.append(words[1] if words[0] == "nnUNetv2_mstkd" else words[0])
        if "--overwrite" in words:
            self.commands[-1] += " --overwrite"
        self.leave(words)

    def leave(self, words):
        """Leave what the command of these words would have left."""
        raise NotImplementedError
