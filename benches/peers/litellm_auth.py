"""Keys of LiteLLM's proxy without its database: the key itself says its budget.

`sk-<name>-<micro-dollars>` is a key with that `max_budget`, `sk-<name>` one without. LiteLLM holds the worst case of a
request against `max_budget`, by its own code and in its own memory, as it does for a key out of its database.
"""

from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.utils import hash_token


async def user_api_key_auth(request, api_key: str) -> UserAPIKeyAuth:
    parts = api_key.split("-")
    budget = int(parts[2]) / 1e6 if len(parts) == 3 else None
    return UserAPIKeyAuth(api_key=api_key, token=hash_token(api_key), max_budget=budget)
