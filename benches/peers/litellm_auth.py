"""Keys of LiteLLM's proxy without its database: the key itself says its budget.

`sk-<name>-<micro-dollars>` is a key with that `max_budget`, `sk-<name>` one without. LiteLLM holds the worst case of a
request against `max_budget` by its own code and in its own memory, as it does for a key out of its database.

What replaces a hold with the real cost, `ProxyDBLogger`, LiteLLM adds only when it has a database. It is added here, as
LiteLLM does it, so that its holds come free; what it would write to the database goes nowhere.
"""

import litellm
from litellm.proxy._types import UserAPIKeyAuth, hash_token
from litellm.proxy.hooks.proxy_track_cost_callback import ProxyDBLogger

settling = False


async def user_api_key_auth(request, api_key: str) -> UserAPIKeyAuth:
    global settling
    if not settling:
        settling = True
        litellm.logging_callback_manager.add_litellm_callback(ProxyDBLogger(None))
        litellm.logging_callback_manager.add_litellm_async_success_callback(ProxyDBLogger(None))
    parts = api_key.split("-")
    budget = int(parts[2]) / 1e6 if len(parts) == 3 else None
    return UserAPIKeyAuth(api_key=api_key, token=hash_token(api_key), max_budget=budget)
