# The bank's policy for an agent that acts on a customer's account.
# ../README.md says what each rule stands for and what it knows.
package sift

tool := input.call.name if input.call.kind == "tool"

args := input.call.args

told := input.run.seen.told.known

untrusted if "untrusted" in input.run.marks

# Arguments that are there: a tool takes null for one that is left out.
given contains name if {
	some name, value in args
	value != null
}

# --- What is allowed at all. Anything else is denied by default.

# The application speaks for the user, first and once; after that the agent has the floor.
allow contains {"rule": "user-speaks"} if {
	tool == "user_message"
	input.run.seq == 1
}

allow contains {"rule": "read"} if tool in {
	"get_iban",
	"get_balance",
	"get_most_recent_transactions",
	"get_scheduled_transactions",
	"get_user_info",
	"read_file",
}

allow contains {"rule": "act"} if tool in object.keys(acting)

deny contains {"rule": "arguments-readable", "reason": "the arguments are not a JSON object"} if input.call.args_error

deny contains {"rule": "arguments-known", "reason": "an argument that this tool does not have"} if {
	acting[tool]
	some name in object.keys(args)
	not name in acting[tool]
}

# The tools that act, and their arguments.
acting := {
	"send_money": ["recipient", "amount", "subject", "date"],
	"schedule_transaction": ["recipient", "amount", "subject", "date", "recurring"],
	"update_scheduled_transaction": ["id", "recipient", "amount", "subject", "date", "recurring"],
	"update_password": ["password"],
	"update_user_info": ["first_name", "last_name", "street", "city"],
}

payees := input.run.seen.payees.known

# --- Payments.

hold contains {
	"rule": "payee-new",
	"reason": "neither the user nor an earlier payment names this recipient",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"send_money", "schedule_transaction"}
	not args.recipient in payees
}

hold contains {
	"rule": "payee-changed",
	"reason": "neither the user nor an earlier payment names this recipient",
	"role": "user",
	"seconds": 900,
} if {
	tool == "update_scheduled_transaction"
	"recipient" in given
	not args.recipient in payees
}

hold contains {
	"rule": "amount-unnamed",
	"reason": "the user did not name this amount, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"send_money", "schedule_transaction", "update_scheduled_transaction"}
	"amount" in given
	not args.amount in told
	untrusted
}

# --- The account itself.

hold contains {
	"rule": "password",
	"reason": "the user did not name this password",
	"role": "user",
	"seconds": 900,
} if {
	tool == "update_password"
	not args.password in told
}

hold contains {
	"rule": "user-info",
	"reason": "the user did not name what the account is changed to",
	"role": "user",
	"seconds": 900,
} if {
	tool == "update_user_info"
	some name in given
	not args[name] in told
}
