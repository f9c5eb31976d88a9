# The company's policy for an agent in its Slack workspace.
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
	"get_channels",
	"read_channel_messages",
	"read_inbox",
	"get_users_in_channel",
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
	"get_webpage": ["url"],
	"post_webpage": ["url", "content"],
	"send_direct_message": ["recipient", "body"],
	"send_channel_message": ["channel", "body"],
	"add_user_to_channel": ["user", "channel"],
	"invite_user_to_slack": ["user", "user_email"],
	"remove_user_from_slack": ["user"],
}

members := input.run.seen.members.known

# --- The web. Whoever chooses an address learns what is put into it.

hold contains {
	"rule": "page-unnamed",
	"reason": "the user did not name this page, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool == "get_webpage"
	not args.url in told
	untrusted
}

hold contains {
	"rule": "post-unnamed",
	"reason": "the user did not name the page to post to",
	"role": "user",
	"seconds": 900,
} if {
	tool == "post_webpage"
	not args.url in told
}

# --- Messages.

hold contains {
	"rule": "links-unnamed",
	"reason": "a link that the user did not name, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"send_direct_message", "send_channel_message"}
	input.run.seen.links.new != []
	untrusted
}

hold contains {
	"rule": "channel-external",
	"reason": "people from outside read this channel",
	"role": "user",
	"seconds": 900,
} if {
	tool == "send_channel_message"
	startswith(args.channel, "External")
}

# --- Who is in the workspace.

hold contains {
	"rule": "invite-unnamed",
	"reason": "the user did not name this address",
	"role": "user",
	"seconds": 900,
} if {
	tool == "invite_user_to_slack"
	not args.user_email in told
}

hold contains {
	"rule": "member-unknown",
	"reason": "neither the user nor the workspace knows this member",
	"role": "user",
	"seconds": 900,
} if {
	tool == "add_user_to_channel"
	not args.user in members
}

hold contains {
	"rule": "remove",
	"reason": "removing somebody is confirmed",
	"role": "user",
	"seconds": 900,
} if {
	tool == "remove_user_from_slack"
}
