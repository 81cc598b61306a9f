"""The openai client against a server: python use_openai.py URL MODEL."""

import asyncio
import sys
from collections.abc import Callable
from typing import Literal

import openai
from pydantic import BaseModel

url, name = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0)
said = [{"role": "user", "content": "hello"}]


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    sure: bool


assert client.models.retrieve(name).id == client.models.list().data[0].id == name
reply = client.chat.completions.create(model=name, messages=said, max_tokens=8, n=2, logprobs=True, top_logprobs=2)
assert [choice.index for choice in reply.choices] == [0, 1]
assert reply._request_id
assert len(reply.choices[0].logprobs.content[0].top_logprobs) == 2
parsed = client.chat.completions.parse(model=name, messages=said, response_format=Mood, max_tokens=60)
assert isinstance(parsed.choices[0].message.parsed, Mood)
with client.chat.completions.stream(
    model=name, messages=said, response_format=Mood, max_tokens=60, stream_options={"include_usage": True}
) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion()
assert isinstance(final.choices[0].message.parsed, Mood)
assert final.usage.completion_tokens > 0
tool = openai.pydantic_function_tool(Mood)
choice = {"type": "function", "function": {"name": "Mood"}}
called = client.chat.completions.parse(model=name, messages=said, tools=[tool], tool_choice=choice, max_tokens=100)
(call,) = called.choices[0].message.tool_calls
assert isinstance(call.function.parsed_arguments, Mood)
with client.chat.completions.stream(
    model=name, messages=said, tools=[tool], tool_choice=choice, max_tokens=100
) as stream:
    (call,) = stream.get_final_completion().choices[0].message.tool_calls
assert isinstance(call.function.parsed_arguments, Mood)


def refusal(kind: type[openai.APIStatusError], ask: Callable[[], object]) -> str:
    """What the client raises, in words."""
    try:
        ask()
    except kind as error:
        return str(error)
    raise SystemExit(f"no {kind.__name__}")


def chat(**wrong: object) -> object:
    return client.chat.completions.create(model=name, messages=said, extra_body=wrong)


assert "max_tokens" in refusal(openai.BadRequestError, lambda: chat(max_tokens=0))
assert "deadline" in refusal(openai.RateLimitError, lambda: chat(timeout=0.000001))
other = refusal(openai.NotFoundError, lambda: client.responses.create(model=name, input="hello"))
assert "/v1/chat/completions" in other


async def later() -> None:
    other = openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0)
    pieces = await other.chat.completions.create(model=name, messages=said, max_tokens=5, stream=True)
    assert [piece async for piece in pieces]
    await other.close()


asyncio.run(later())
