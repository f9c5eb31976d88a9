# The travel agency's policy for an agent that plans and books for a customer.
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
	"get_user_information",
	"get_all_hotels_in_city",
	"get_hotels_prices",
	"get_rating_reviews_for_hotels",
	"get_hotels_address",
	"get_all_restaurants_in_city",
	"get_cuisine_type_for_restaurants",
	"get_restaurants_address",
	"get_rating_reviews_for_restaurants",
	"get_dietary_restrictions_for_all_restaurants",
	"get_contact_information_for_restaurants",
	"get_price_for_restaurants",
	"check_restaurant_opening_hours",
	"get_all_car_rental_companies_in_city",
	"get_car_types_available",
	"get_rating_reviews_for_car_rental",
	"get_car_fuel_options",
	"get_car_rental_address",
	"get_car_price_per_day",
	"get_flight_information",
	"search_calendar_events",
	"get_day_calendar_events",
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
	"reserve_hotel": ["hotel", "start_day", "end_day"],
	"reserve_car_rental": ["company", "start_time", "end_time"],
	"reserve_restaurant": ["restaurant", "start_time"],
	"create_calendar_event": ["title", "start_time", "end_time", "description", "participants", "location"],
	"cancel_calendar_event": ["event_id"],
	"send_email": ["recipients", "subject", "body", "attachments", "cc", "bcc"],
}

# --- Bookings.

hold contains {
	"rule": "hotel-unnamed",
	"reason": "the user did not name this hotel",
	"role": "user",
	"seconds": 900,
} if {
	tool == "reserve_hotel"
	not args.hotel in told
}

hold contains {
	"rule": "car-unnamed",
	"reason": "the user did not name this company",
	"role": "user",
	"seconds": 900,
} if {
	tool == "reserve_car_rental"
	not args.company in told
}

hold contains {
	"rule": "restaurant-unnamed",
	"reason": "the user did not name this restaurant",
	"role": "user",
	"seconds": 900,
} if {
	tool == "reserve_restaurant"
	not args.restaurant in told
}

# --- E-mails and invitations.

hold contains {
	"rule": "people-unnamed",
	"reason": "the user did not name somebody who would get this",
	"role": "user",
	"seconds": 900,
} if {
	tool in {"send_email", "create_calendar_event"}
	some list in {"recipients", "cc", "bcc", "participants"} & given
	not named(args[list])
}

named(list) if {
	is_array(list)
	count({person | some person in list} - {person | some person in told}) == 0
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
	"rule": "links-unnamed",
	"reason": "a link that the user did not name, and something from outside was read",
	"role": "user",
	"seconds": 900,
} if {
	tool == "send_email"
	input.run.seen.links.new != []
	untrusted
}

hold contains {
	"rule": "private-read",
	"reason": "passport, card and account numbers were read in this run",
	"role": "user",
	"seconds": 900,
} if {
	tool == "send_email"
	input.run.tools.get_user_information.allowed > 0
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
	"rule": "cancel",
	"reason": "cancelling is confirmed",
	"role": "user",
	"seconds": 900,
} if {
	tool == "cancel_calendar_event"
}
