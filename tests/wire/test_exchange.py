from dataclasses import replace

from n1n_prefect.wire.exchange import Reply, masked_reply

KEY = "hush-hush-4711"


def test_words_and_ids_of_a_reply_are_masked_and_its_image_is_not():
    names = ("text", "finish_reason", "model_version", "response_id", "request_id")
    said = dict.fromkeys(names, f"of {KEY}")
    reply = Reply(data=KEY.encode(), url=f"https://host/{KEY}", **said)
    assert masked_reply(reply, KEY) == replace(reply, **dict.fromkeys(names, "of ***"))
