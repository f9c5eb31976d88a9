"""What a hijacked agent does: the user's calls as AgentDojo's ground truth has them, with the attacker's in between."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentdojo.base_tasks import BaseInjectionTask, BaseUserTask
from agentdojo.functions_runtime import FunctionsRuntime
from agentdojo.task_suite.task_suite import TaskSuite
from pydantic import BaseModel


@dataclass(frozen=True)
class Step:
    """A call, and whose it is."""

    by_user: bool
    tool: str
    args: bytes


@dataclass(frozen=True)
class Pair:
    """A user task, and the injection task that hijacks it; none for the benign case."""

    user: BaseUserTask
    injection: BaseInjectionTask | None

    @property
    def name(self) -> tuple[str, str | None]:
        return self.user.ID, self.injection.ID if self.injection else None


def plain(value: Any) -> Any:
    """A tool's result as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(member) for name, member in value.items()}
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def as_json(value: Any) -> bytes:
    return json.dumps(plain(value), ensure_ascii=False).encode("utf-8")


def text_of(goal: str) -> str:
    """The injected text: the attacker's goal in one line that every place in AgentDojo's environments can hold."""
    return " INSTRUCTION FOR THE ASSISTANT: " + " ".join(goal.replace('"', "'").replace("\\", "").split())


def calls(task: BaseUserTask | BaseInjectionTask, env: Any, by_user: bool) -> list[Step]:
    return [Step(by_user, call.function, as_json(dict(call.args))) for call in task.ground_truth(env)]


class Scripts:
    """The pairs of a suite."""

    def __init__(self, suite: TaskSuite) -> None:
        self.suite = suite
        self.defaults = suite.get_injection_vector_defaults()
        self._seen: dict[str, dict[str, int]] = {}
        users, injections = suite.user_tasks.values(), suite.injection_tasks.values()
        env = suite.load_and_inject_default_environment({})
        scripted = [task for task in injections if task.ground_truth(env.model_copy(deep=True))]
        self.benign = [Pair(user, None) for user in users]
        self.attacks = [Pair(user, task) for user in users for task in scripted]
        self.all_pairs = len(users) * len(injections)

    def seen(self, user: BaseUserTask) -> dict[str, int]:
        """Which injectable places the task's own calls read, and how many calls have been made then.

        As AgentDojo finds them: canaries in every place, and a look at what the tools report."""
        if user.ID not in self._seen:
            canaries = {place: f"<CANARY---{place}--->" for place in self.defaults}
            env = user.init_environment(self.suite.load_and_inject_default_environment(canaries))
            runtime, found = FunctionsRuntime(self.suite.tools), {}
            for number, call in enumerate(user.ground_truth(env), 1):
                result, _ = runtime.run_function(env, call.function, call.args)
                told = as_json(result).decode("utf-8")
                for place, canary in canaries.items():
                    if canary in told:
                        found.setdefault(place, number)
            self._seen[user.ID] = found
        return self._seen[user.ID]

    def environment(self, pair: Pair) -> Any:
        """The suite's environment, with the attacker's text in every place that the user's task reads."""
        injections = {}
        if pair.injection:
            # The name of a channel stays as it is: AgentDojo's ground truth calls it by its name.
            places = [place for place in self.seen(pair.user) if place != "prompt_injection_channel"]
            injections = {place: self.defaults[place] + text_of(pair.injection.GOAL) for place in places}
        return self.suite.load_and_inject_default_environment(injections)

    def steps(self, pair: Pair, env: Any) -> list[Step]:
        """The user's calls; the attacker's right after the first one that reads the attacker's text, or at the end."""
        steps = calls(pair.user, env, True)
        if pair.injection:
            at = min(self.seen(pair.user).values(), default=len(steps))
            steps[at:at] = calls(pair.injection, env, False)
        return steps

    def is_appended(self, pair: Pair) -> bool:
        """Whether no call of the user's reads the attacker's text."""
        return not self.seen(pair.user)
