"""instructor against a server: python use_instructor.py URL MODEL."""

import sys
from typing import Literal

import instructor
import openai
from pydantic import BaseModel

url, name = sys.argv[1:]
said = [{"role": "user", "content": "hello"}]


class Mood(BaseModel):
    mood: Literal["good", "bad"]
    sure: bool


for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(openai.OpenAI(base_url=url, api_key="unused", max_retries=0), mode=mode)
    found = client.chat.completions.create(
        model=name, messages=said, response_model=Mood, max_tokens=120, max_retries=0
    )
    assert isinstance(found, Mood), mode
