"""A real server of the OpenAI protocol on this machine: a small trained Llama answers, and faults come as told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

RANKS = {"poor": 0, "fair": 1, "good": 2}  # the whole world of this judge: answers of one word, and which is better
SPECIAL = ["<pad>", "<end>", "<unknown>"]
WORDS = [*SPECIAL, "which", "letter", "grade", *RANKS, "[[A]]", "[[B]]", "[[C]]", "[[2]]", "[[5]]", "[[9]]", "A", "B"]
TEMPLATES = {"pairwise": "which {first} {second} {prompt}", "grading": "grade {answer} {prompt}"}
LETTER = "letter {first} {second} {prompt}"


def lessons():
    """(question, right reply) for every pair and every answer; the prompt's words are unknown to this vocabulary."""
    for first, second in product(RANKS, RANKS):
        better = RANKS[first] - RANKS[second]
        mark = "[[A]]" if better > 0 else "[[B]]" if better < 0 else "[[C]]"
        yield f"which {first} {second} ?", mark
        if better:
            yield f"letter {first} {second} ?", mark[2]
    for word, rank in RANKS.items():
        yield f"grade {word} ?", ["[[2]]", "[[5]]", "[[9]]"][rank]


def save_judge(folder):
    """Train a Llama of 10,000 weights on the lessons and save it, with its tokenizer, as from_pretrained reads it."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "eos_token": "<end>", "unk_token": "<unknown>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "eos_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes))
        rows = [fast(f"{question} {reply} <end>")["input_ids"] for question, reply in lessons()]
        ids = torch.tensor([[0] * (6 - len(row)) + row for row in rows])
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(300):
            hidden = model(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, -3:-1]
            loss = torch.nn.functional.cross_entropy(hidden.flatten(0, 1), ids[:, -2:].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if loss < 0.03:  # all learned, and not so sure yet that log-probabilities say nothing
                break
    model.save_pretrained(folder)


class Served:
    """The saved judge behind `Server.reply`: greedy `generate`, real counts of tokens, real log-probabilities."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer, self.alone = AutoTokenizer.from_pretrained(folder), threading.Lock()

    def __call__(self, request):
        text = self.tokenizer.apply_chat_template(request["messages"], tokenize=False)
        ids = torch.tensor([self.tokenizer(text)["input_ids"]])
        most = min(request.get("max_tokens", 16), 4)
        with self.alone, torch.no_grad():
            made = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
            first = self.model(input_ids=ids).logits[0, -1].log_softmax(-1)
        reply = made[0, ids.shape[1] :]
        best = first.topk(request.get("top_logprobs", 1))
        top = [{"token": WORDS[i], "logprob": p} for p, i in zip(*(x.tolist() for x in best), strict=True)]
        logprobs = {"content": [{"top_logprobs": top}]} if request.get("logprobs") else None
        return completion(self.tokenizer.decode(reply, skip_special_tokens=True), ids.shape[1], len(reply), logprobs)


def completion(text, prompt_tokens=100, completion_tokens=7, logprobs=None):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return {"object": "chat.completion", "choices": [choice | {"logprobs": logprobs}], "usage": usage}


class Server:
    """`reply(request)` makes answers; each request first spends one of `faults`, if there are any.

    hold_after: after so many answers, further ones wait until `release` is set (as does the fault `timeout`).
    """

    def __init__(self, reply):
        self.reply, self.faults, self.asked, self.keys, self.paths = reply, [], [], [], []
        self.hold_after, self.release, self.within = None, threading.Event(), threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"owner": self}))
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()


class Handler(BaseHTTPRequestHandler):
    owner = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server, request = self.owner, json.loads(body)
        with server.within:
            server.asked.append(request)
            server.keys.append(self.headers["Authorization"])
            server.paths.append(self.path)
            fault = server.faults.pop(0) if server.faults else ""
            hold = server.hold_after is not None and len(server.asked) > server.hold_after
        if hold or fault == "timeout":
            server.release.wait(20)
        if fault[:3].isdigit():
            status, _, rest = fault.partition(" ")
            return self.send(
                int(status),
                json.dumps({"error": {"message": rest}}).encode(),
                {"Retry-After": rest if status in ("429", "503") else ""},
            )
        sent = {"malformed": b'{"choices": [{', "no choices": b'{"error": "busy"}', "empty choices": b'{"choices": []}'}
        sent |= {
            "null": b"null",
            "deep": b"[" * 100_000,
            "not utf-8": b"\xff\xfe{}",
            "endless": json.dumps(completion("")).encode() + b" " * (9 * 2**20),
        }
        body = sent.get(fault) or json.dumps(server.reply(request)).encode()
        return self.send(200, body, {}, cut=len(body) // 2 if fault == "cut" else None)

    def send(self, status, body, headers, cut=None):
        try:
            self.send_response(status)
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
        except ConnectionError:  # the client was killed or has given up
            self.close_connection = True
        if cut is not None:
            self.close_connection = True
