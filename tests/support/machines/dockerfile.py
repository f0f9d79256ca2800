"""What a Dockerfile says, as far as those of docs/containers go: stages, and their instructions in order."""

import re
import shlex
from dataclasses import dataclass, field

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # docker's own


@dataclass
class Stage:
    """A stage of a Dockerfile: its name, its base, and its instructions in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The argument of the last such instruction, which is the one that counts."""
        return next(argument for name, argument in reversed(self.steps) if name == instruction)

    @property
    def environment(self) -> dict[str, str]:
        """What the stage's ENV set, with what they refer to put in."""
        found = {"PATH": SYSTEM_PATH}
        for name, argument in self.steps:
            if name in ("ENV", "ARG"):
                for item in shlex.split(argument):
                    key, _, value = item.partition("=")
                    found[key] = re.sub(r"\$(\w+)", lambda match: found[match[1]], value)
        return found


def parse(text: str) -> list[Stage]:
    """Read a Dockerfile's stages; comments go, and lines that end with a backslash go on."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, _, argument = line.partition(" ")
        if name == "FROM":
            base, _, alias = argument.partition(" AS ")
            stages.append(Stage(alias or str(len(stages)), base))
        else:
            stages[-1].steps.append((name, argument.strip()))
    return stages
