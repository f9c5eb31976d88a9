# The airline's policy for its agent, as rules over tools, arguments and what tools have reported in the run.
# README.md says which sentence of the airline's text each rule stands for, and which sentences have no rule.
package sift

tool := input.call.name if input.call.kind == "tool"

args := input.call.args

user := input.facts.user

reservation := input.facts.reservation

# --- What is allowed at all. Anything else is denied by default.

allow contains {"rule": "lookup"} if {
	tool in {
		"get_user_details",
		"get_reservation_details",
		"search_direct_flight",
		"search_onestop_flight",
		"list_all_airports",
	}
}

allow contains {"rule": "harmless"} if tool in {"think", "calculate"}

allow contains {"rule": "transfer"} if tool == "transfer_to_human_agents"

allow contains {"rule": "book"} if tool == "book_reservation"

allow contains {"rule": "change"} if tool in changes

allow contains {"rule": "model"} if {
	input.call.kind == "model"
	input.call.provider == "openai"
	input.call.model == "gpt-4o"
}

hold contains {
	"rule": "certificate-approval",
	"reason": "a supervisor confirms the facts before a certificate is given",
	"role": "supervisor",
	"seconds": 900,
} if {
	tool == "send_certificate"
}

changes := {
	"cancel_reservation",
	"update_reservation_baggages",
	"update_reservation_flights",
	"update_reservation_passengers",
}

# --- Arguments. A member that is missing would make other rules silently not apply.

deny contains {"rule": "arguments-readable", "reason": "the arguments are not a JSON object"} if {
	input.call.args_error
}

deny contains {"rule": "arguments-complete", "reason": "an argument of this tool is missing"} if {
	some name in data.required[tool]
	not name in object.keys(args)
}

deny contains {"rule": "arguments-typed", "reason": "an argument of this tool is of the wrong type"} if {
	some name, type in data.types[tool]
	name in object.keys(args)
	type_name(args[name]) != type
}

deny contains {"rule": "book-payments-typed", "reason": "a payment method has no payment_id that is a text"} if {
	tool == "book_reservation"
	some method in args.payment_methods
	not is_string(method.payment_id)
}

deny contains {"rule": "calculate-characters", "reason": "an expression is digits, + - * / ( ) . and spaces"} if {
	tool == "calculate"
	not regex.match(`^[0-9+\-*/(). ]*$`, args.expression)
}

deny contains {"rule": "calculate-powers", "reason": "an expression has no powers: a short one keeps a machine busy for ever"} if {
	tool == "calculate"
	contains(args.expression, "**")
}

deny contains {"rule": "cabin-known", "reason": "a cabin is basic_economy, economy or business"} if {
	tool in {"book_reservation", "update_reservation_flights"}
	not args.cabin in {"basic_economy", "economy", "business"}
}

# --- After a transfer.

deny contains {"rule": "transferred", "reason": "the conversation was transferred to a human, who writes from then on"} if {
	tool in writes
	"transferred" in input.run.marks
}

writes := changes | {"book_reservation", "send_certificate"}

# --- Book flight.

deny contains {"rule": "book-profile-read", "reason": "the user's profile has not been read in this run"} if {
	tool == "book_reservation"
	not user
}

# Without a known tier no allowance would be known, and the rules on bags would silently not apply.
deny contains {"rule": "membership-known", "reason": "a membership is regular, silver or gold"} if {
	tool in {"book_reservation", "update_reservation_baggages"}
	user
	not user.membership in object.keys(free_bags)
}

deny contains {"rule": "book-passengers-max", "reason": "a reservation has at most five passengers"} if {
	tool == "book_reservation"
	count(args.passengers) > 5
}

deny contains {"rule": "book-payments-max", "reason": "a reservation is paid with at most five methods"} if {
	tool == "book_reservation"
	count(args.payment_methods) > 5
}

deny contains {"rule": "book-one-certificate", "reason": "at most one travel certificate a reservation"} if {
	tool == "book_reservation"
	paid_with("certificate_") > 1
}

deny contains {"rule": "book-one-credit-card", "reason": "at most one credit card a reservation"} if {
	tool == "book_reservation"
	paid_with("credit_card_") > 1
}

deny contains {"rule": "book-three-gift-cards", "reason": "at most three gift cards a reservation"} if {
	tool == "book_reservation"
	paid_with("gift_card_") > 3
}

deny contains {"rule": "book-payment-known", "reason": "a payment method is not in the user's profile"} if {
	tool == "book_reservation"
	some method in args.payment_methods
	not method.payment_id in object.keys(user.payment_methods)
	user
}

deny contains {"rule": "book-bag-allowance", "reason": "the paid bags are not those beyond the free allowance"} if {
	tool == "book_reservation"
	free := free_bags[user.membership][args.cabin] * count(args.passengers)
	args.nonfree_baggages != max([0, args.total_baggages - free])
}

deny contains {"rule": "book-flight-searched", "reason": "no search in this run reported this flight or was about this day"} if {
	tool == "book_reservation"
	is_array(args.flights)
	some flight in args.flights
	not is_among(flight, input.run.seen.searched.known)
}

is_among(flight, values) if {
	flight.flight_number in values
	flight.date in values
}

paid_with(prefix) := count([method |
	some method in args.payment_methods
	startswith(method.payment_id, prefix)
])

free_bags := {
	"regular": {"basic_economy": 0, "economy": 1, "business": 2},
	"silver": {"basic_economy": 1, "economy": 2, "business": 3},
	"gold": {"basic_economy": 2, "economy": 3, "business": 3},
}

# --- Modify flight.

deny contains {"rule": "reservation-read", "reason": "the reservation has not been read in this run"} if {
	tool in changes
	not reservation
}

deny contains {"rule": "reservation-of-user", "reason": "the reservation is not that of the user whose profile was read"} if {
	tool in changes
	reservation
	user
	not owner_read
}

deny contains {"rule": "flights-basic-economy", "reason": "basic economy flights cannot be modified"} if {
	tool == "update_reservation_flights"
	reservation.cabin == "basic_economy"
	not same_flights
}

# Equal sets of equal size: no flight more, fewer, or twice.
same_flights if {
	count(args.flights) == count(reservation.flights)
	{[flight.flight_number, flight.date] | some flight in args.flights} ==
		{[flight.flight_number, flight.date] | some flight in reservation.flights}
}

deny contains {
	"rule": "change-flight-reported",
	"reason": "neither a search nor a reservation that was read in this run reported this flight and this day",
} if {
	tool == "update_reservation_flights"
	is_array(args.flights)
	some flight in args.flights
	not is_among(flight, input.run.seen.reported.known)
}

deny contains {"rule": "flights-payment-kind", "reason": "flights are changed for one gift card or credit card"} if {
	tool == "update_reservation_flights"
	not startswith(args.payment_id, "gift_card_")
	not startswith(args.payment_id, "credit_card_")
}

deny contains {"rule": "change-payment-known", "reason": "the payment method is not in the user's profile"} if {
	tool in {"update_reservation_flights", "update_reservation_baggages"}
	reservation
	owner_read
	not args.payment_id in object.keys(user.payment_methods)
}

# What paid for the reservation is the user's; without the profile, nothing else is known to be.
deny contains {
	"rule": "change-payment-unread",
	"reason": "the profile has not been read, and the payment method has not paid for this reservation",
} if {
	tool in {"update_reservation_flights", "update_reservation_baggages"}
	reservation
	not owner_read
	not args.payment_id in {payment.payment_id | some payment in reservation.payment_history}
}

deny contains {"rule": "bags-only-added", "reason": "checked bags can be added but not removed"} if {
	tool == "update_reservation_baggages"
	args.total_baggages < reservation.total_baggages
}

deny contains {"rule": "bags-free-charged", "reason": "a bag within the free allowance is not paid for"} if {
	tool == "update_reservation_baggages"
	owner_read
	free := free_bags[user.membership][reservation.cabin] * count(reservation.passengers)
	args.nonfree_baggages > max([reservation.nonfree_baggages, args.total_baggages - free])
}

# The allowance of business, because after an upgrade the reservation may still report the old cabin.
deny contains {"rule": "bags-paid", "reason": "a bag beyond the free allowance is not paid for"} if {
	tool == "update_reservation_baggages"
	free := business_bags * count(reservation.passengers)
	args.nonfree_baggages < max([reservation.nonfree_baggages, args.total_baggages - free])
}

# While the profile is unread, the largest allowance of all.
business_bags := free_bags[user.membership].business if owner_read else := 3

deny contains {"rule": "passengers-same-number", "reason": "the number of passengers cannot be changed"} if {
	tool == "update_reservation_passengers"
	count(args.passengers) != count(reservation.passengers)
}

# The profile read last is that of the reservation's user; it does not list what was booked since, and that is now.
owner_read if args.reservation_id in user.reservations

owner_read if {
	user
	reservation.created_at == data.now
}

# --- Cancel flight.

deny contains {"rule": "cancel-flown", "reason": "a segment is used already: transfer to a human"} if {
	tool == "cancel_reservation"
	some flight in reservation.flights
	flight.date < data.today
}

deny contains {
	"rule": "cancel-not-covered",
	"reason": "neither business, nor insured, nor booked within 24 hours",
} if {
	tool == "cancel_reservation"
	reservation.cabin != "business"
	reservation.insurance != "yes"
	reservation.created_at < data.booked_24_hours_ago
}

# --- Refund.

deny contains {"rule": "certificate-profile-read", "reason": "the user's profile has not been read in this run"} if {
	tool == "send_certificate"
	not user
}

deny contains {"rule": "certificate-reservation-read", "reason": "no reservation of this user has been read in this run"} if {
	tool == "send_certificate"
	not args.user_id in input.run.seen.customers.known
}

deny contains {"rule": "certificate-amount", "reason": "a certificate is 100 or 50 dollars a passenger"} if {
	tool == "send_certificate"
	not args.amount in {50, 100, 150, 200, 250, 300, 400, 500}
}
