"""litellm against a server: python use_litellm.py URL MODEL."""

import json
import sys

import litellm

url, name = sys.argv[1:]
how = {"model": f"openai/{name}", "api_base": url, "api_key": "unused", "num_retries": 0, "max_tokens": 60}
said = [{"role": "user", "content": "hello"}]
schema = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
assert litellm.completion(messages=said, **how).usage.completion_tokens > 0
assert list(litellm.completion(messages=said, stream=True, **how))
form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
reply = litellm.completion(messages=said, response_format=form, **how)
assert set(json.loads(reply.choices[0].message.content)) == {"ok"}
tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
reply = litellm.completion(messages=said, tools=tools, tool_choice="required", **how)
assert reply.choices[0].message.tool_calls[0].function.name == "look"
