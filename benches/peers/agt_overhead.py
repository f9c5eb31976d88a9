"""What agent-governance-toolkit adds to a call that takes no time itself, layer upon layer.

The layers and their sizes are those of the project's own docs/benchmarks/governance-overhead.md: a policy of ten rules,
a trust policy of five, execution rings, a Merkle audit log in memory; then, because Sift's figure has them, the budget
tracker and the file sink with its keyed hashes. Prints JSON: for each stack microseconds a call (p50, p99) from one
thread, and calls a second from one thread and from 64.

Usage: agt_overhead.py CALLS FILE   (FILE is written by the last stack)
"""

import json
import os
import sys
import threading
import time

from agent_os.policies import evaluator, schema
from agentmesh.governance.audit import AuditLog
from agentmesh.governance.audit_backends import FileAuditSink
from agentmesh.governance.budget import BudgetConfig, BudgetTracker
from agentmesh.governance.policy_evaluator import PolicyEvaluator as TrustEvaluator
from agentmesh.governance.trust_policy import TrustCondition, TrustPolicy, TrustRule
from hypervisor.models import ActionDescriptor
from hypervisor.rings.enforcer import RingEnforcer

WARM = 100
THREADS = 64
AGENT = "did:mesh:bench"


def policy():
    rules = [
        schema.PolicyRule(
            name=f"no-tool-{n}",
            condition=schema.PolicyCondition(field="tool_name", operator="eq", value=f"tool_{n}"),
            action="deny",
            priority=n,
        )
        for n in range(9)
    ]
    allowed = schema.PolicyCondition(field="tool_name", operator="eq", value="get_reservation_details")
    rules.append(schema.PolicyRule(name="read", condition=allowed, action="allow"))
    defaults = schema.PolicyDefaults(action="deny")
    return evaluator.PolicyEvaluator([schema.PolicyDocument(name="bench", rules=rules, defaults=defaults)])


def trust():
    below = [
        TrustRule(
            name=f"below-{n}",
            condition=TrustCondition(field="trust_score", operator="lt", value=100 * n),
            action="deny",
            priority=n,
        )
        for n in range(1, 5)
    ]
    enough = TrustCondition(field="trust_score", operator="gte", value=500)
    rules = below + [TrustRule(name="enough", condition=enough, action="allow", priority=9)]
    return TrustEvaluator([TrustPolicy(name="bench", rules=rules)])


class Stack:
    """One way to govern a call; `layers` says which of them it passes."""

    def __init__(self, layers, path=None):
        self.layers = layers
        self.policy, self.trust, self.rings = policy(), trust(), RingEnforcer()
        self.budget = BudgetTracker(BudgetConfig(max_tokens=10**15, max_cost_usd=1e12))
        self.audit = AuditLog(sink=FileAuditSink(path, os.urandom(32)) if path else None)

    def call(self, number):
        arguments = {"reservation_id": f"R{number:07}"}
        decision = self.policy.evaluate({"tool_name": "get_reservation_details", "arguments": arguments})
        assert decision.allowed, decision
        if "trust" in self.layers:
            assert self.trust.evaluate({"trust_score": 800}).allowed
            action = ActionDescriptor(action_id="read", name="read", execute_api="/read", is_read_only=True)
            ring = self.rings.compute_ring(0.8)
            assert self.rings.check(ring, action, 0.8).allowed
        if "budget" in self.layers:
            assert self.budget.check_budget(AGENT, 1).allowed
            self.budget.record_usage(AGENT, 1)
        if "audit" in self.layers:
            self.audit.log("tool_invocation", AGENT, "get_reservation_details", data=arguments, policy_decision="allow")


def percentile(times, share):
    return times[min(len(times) - 1, int(len(times) * share))] / 1000


def measure(what, layers, calls, path=None):
    stack = Stack(layers, path)
    for number in range(WARM):
        stack.call(number)
    times = []
    start = time.perf_counter()
    for number in range(calls):
        before = time.perf_counter_ns()
        stack.call(number)
        times.append(time.perf_counter_ns() - before)
    alone = calls / (time.perf_counter() - start)
    times.sort()

    each = calls // THREADS

    def work():
        for number in range(each):
            stack.call(number)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = each * THREADS / (time.perf_counter() - start)
    return {
        "what": what,
        "p50_us": percentile(times, 0.5),
        "p99_us": percentile(times, 0.99),
        "alone_per_second": alone,
        "together_per_second": together,
    }


def main():
    calls, path = int(sys.argv[1]), sys.argv[2]
    full = {"trust", "audit"}
    rows = [
        measure("policy", set(), calls),
        measure("policy, trust, audit in memory", full, calls),
        measure("policy, trust, budget, audit file", full | {"budget"}, calls, path),
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
