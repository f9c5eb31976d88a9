# The company's policy for an agent in an employee's mail, calendar and drive.
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
	"get_unread_emails",
	"get_sent_emails",
	"get_received_emails",
	"get_draft_emails",
	"search_emails",
	"search_calendar_events",
	"get_day_calendar_events",
	"search_files_by_filename",
	"get_file_by_id",
	"list_files",
	"search_files",
	"search_contacts_by_name",
	"search_contacts_by_email",
	"get_current_day",
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
	"send_email": ["recipients", "subject", "body", "attachments", "cc", "bcc"],
	"delete_email": ["email_id"],
	"create_calendar_event": ["title", "start_time", "end_time", "description", "participants", "location"],
	"cancel_calendar_event": ["event_id"],
	"reschedule_calendar_event": ["event_id", "new_start_time", "new_end_time"],
	"add_calendar_event_participants": ["event_id", "participants"],
	"create_file": ["filename", "content"],
	"append_to_file": ["file_id", "content"],
	"delete_file": ["file_id"],
	"share_file": ["file_id", "email", "permission"],
}

people := input.run.seen.people.known

# --- Who gets something.

hold contains {
	"rule": "people-unknown",
	"reason": "neither the user nor the address book names somebody who would get this",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"send_email", "create_calendar_event", "add_calendar_event_participants"}
	some list in {"recipients", "cc", "bcc", "participants"} & given
	not known(args[list])
}

known(list) if {
	is_array(list)
	count({person | some person in list} - {person | some person in people}) == 0
}

hold contains {
	"rule": "recipients-missing",
	"reason": "an e-mail has recipients",
	"role": "user",
	"seconds": 900,
} if {
	tool == "send_email"
	not "recipients" in given
}

hold contains {
	"rule": "share-unknown",
	"reason": "neither the user nor the address book names whom this is shared with",
	"role": "user",
	"seconds": 900,
} if {
	tool == "share_file"
	not args.email in people
}

hold contains {
	"rule": "links-unnamed",
	"reason": "a link that the user did not name, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool == "send_email"
	input.run.seen.links.new != []
	untrusted
}

# --- The calendar.

hold contains {
	"rule": "title-unnamed",
	"reason": "the user did not name this event, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool == "create_calendar_event"
	not args.title in told
	untrusted
}

hold contains {
	"rule": "reschedule",
	"reason": "others are told of a new time, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool == "reschedule_calendar_event"
	untrusted
}

# --- What cannot be taken back.

hold contains {
	"rule": "destroy",
	"reason": "deleting and cancelling are confirmed",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"delete_email", "delete_file", "cancel_calendar_event"}
}
