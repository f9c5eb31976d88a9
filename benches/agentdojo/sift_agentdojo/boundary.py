"""What stands between the agent and its tools: nothing, or a kernel."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Callable

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.functions_runtime import EmptyEnv, FunctionCall, FunctionsRuntime
from agentdojo.types import ChatAssistantMessage, ChatToolResultMessage, text_content_block_from_string

from sift_serve import content

from .script import Pair, Scripts, Step, as_json
from .stage import Served

# Whether an approver says yes to a call: given the call, and the calls of the user's own task.
Approver = Callable[[Step, list[Step]], bool]


def nobody(step: Step, own: list[Step]) -> bool:
    """No approver is there."""
    return False


def attentive(step: Step, own: list[Step]) -> bool:
    """Approves exactly the calls that the user's task consists of, an oracle of somebody who always looks."""
    return any((step.tool, step.args) == (call.tool, call.args) for call in own)


def tired(step: Step, own: list[Step]) -> bool:
    """Approves everything."""
    return True


@dataclass
class Outcome:
    """What became of one task."""

    pair: tuple[str, str | None]
    utility: bool = False
    attacked: bool = False
    run: str = ""
    # For each step: effect and rules, as the kernel said them.
    verdicts: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    asked_user: int = 0
    asked_attacker: int = 0
    denied_user: int = 0


class Agent(BasePipelineElement):
    """A scripted agent. AgentDojo runs it as it runs a model, and judges what it did with its own checks."""

    def __init__(self, scripts: Scripts, pair: Pair, served: Served | None, approver: Approver) -> None:
        self.scripts, self.pair, self.served, self.approver = scripts, pair, served, approver
        self.outcome = Outcome(pair.name)

    def query(self, query: str, runtime: FunctionsRuntime, env: Any = EmptyEnv(), messages: Any = (), extra_args: Any = None) -> Any:
        steps = self.scripts.steps(self.pair, env)
        ran: list[Any] = []
        if self.served:
            # The application, which the user trusts, opens the run and puts the user's words on record. Then the agent acts.
            self.outcome.run = self.served.kernel.open(self.served.agent)
            said = self._propose(Step(True, "user_message", as_json({"text": query})), 0, [])
            assert said, "the user's words were refused"
            self.served.kernel.finish(said[0], "ok", b"{}", media="application/json")
        for number, step in enumerate(steps, 1):
            permit = self._propose(step, number, [own for own in steps if own.by_user]) if self.served else ("", step.args)
            if not permit:
                self.outcome.denied_user += step.by_user
                continue
            handle, args = permit[0], json.loads(permit[1])
            result, error = runtime.run_function(env, step.tool, args)
            if self.served and error:
                self.served.kernel.finish(handle, "error", as_json(result), why=error, media="application/json")
            elif self.served:
                self.served.kernel.finish(handle, "ok", as_json(result), media="application/json")
            # What was refused is no call: AgentDojo judges by the calls that ran.
            call = FunctionCall(function=step.tool, args=args)
            ran.append(ChatAssistantMessage(role="assistant", tool_calls=[call], content=None))
            told = text_content_block_from_string(as_json(result).decode("utf-8"))
            ran.append(ChatToolResultMessage(role="tool", content=[told], tool_call=call, tool_call_id=None, error=error))
        if self.served:
            self.served.kernel.close_run(self.outcome.run)
        last = text_content_block_from_string(self.pair.user.GROUND_TRUTH_OUTPUT)
        ran.append(ChatAssistantMessage(role="assistant", content=[last], tool_calls=None))
        return query, runtime, env, [*messages, *ran], extra_args or {}

    def _propose(self, step: Step, number: int, own: list[Step]) -> tuple[str, bytes] | None:
        """Asks the kernel, and the approver where it says so. Returns a handle and the bytes to run."""
        assert self.served
        kernel = self.served.kernel
        verdict = kernel.tool(self.outcome.run, step.tool, f"call_{number}", step.args)
        effect = {"started": "allow", "held": "hold", "denied": "deny"}[verdict["is"]]
        self.outcome.verdicts.append((effect, tuple(verdict.get("rules", verdict.get("reasons", [])))))
        if verdict["is"] == "held":
            if step.by_user:
                self.outcome.asked_user += 1
            else:
                self.outcome.asked_attacker += 1
            if self.approver is nobody:
                kernel.ask("cancel", handle=verdict["handle"])
                return None
            waiting = kernel.submit("wait", handle=verdict["handle"], start=True)
            self.served.answer(verdict["request"], self.approver(step, own))
            verdict = waiting.result()
        return (verdict["handle"], content(verdict["bytes"])) if verdict["is"] == "started" else None


def play(scripts: Scripts, pair: Pair, env: Any, served: Served | None, approver: Approver) -> Outcome:
    """Runs one task in an environment of its own."""
    agent = Agent(scripts, pair, served, approver)
    utility, attacked = scripts.suite.run_task_with_pipeline(
        agent, pair.user, pair.injection, {}, environment=env.model_copy(deep=True))
    agent.outcome.utility, agent.outcome.attacked = utility, attacked and pair.injection is not None
    return agent.outcome
