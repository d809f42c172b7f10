"""Options of everything around the engine: addresses, the bus, limits, logs, reliability."""

from __future__ import annotations

from services.common.options.base import Option

EVERY = ("gateway", "router", "worker", "detokenizer", "kvstore")

SERVING_OPTIONS: tuple[Option, ...] = (
    # the bus and what all services share
    Option("config", str, "", "A TOML file of options.", (*EVERY, "up")),
    Option("namespace", str, "shoal", "Prefix of all subjects and keys; one per deployment.", EVERY),
    Option("nats_url", str, "", "NATS servers, comma-separated; `up` starts its own when empty.", EVERY),
    Option("nats_user", str, "", "NATS user.", EVERY),
    Option("nats_password", str, "", "NATS password.", EVERY, secret=True),
    Option("nats_token", str, "", "NATS token.", EVERY, secret=True),
    Option("nats_tls_ca", str, "", "PEM file of the authority that signed NATS's certificate.", EVERY),
    Option("nats_tls_cert", str, "", "PEM file of this client's certificate.", EVERY),
    Option("nats_tls_key", str, "", "PEM file of this client's key.", EVERY),
    Option("redis_url", str, "", "Redis; `up` starts its own when empty.", ("kvstore",), secret=True),
    Option("instance_id", str, "", "Name of this process; generated when empty.", EVERY),
    Option("health_host", str, "127.0.0.1", "Where /health, /ready and /metrics listen.", EVERY),
    Option("health_port", int, 0, "Their port; 0 picks a free one.", EVERY, minimum=0, maximum=65535),
    Option("heartbeat_interval", float, 0.4, "Seconds between heartbeats.", EVERY, minimum=0.02),
    Option(
        "lease",
        float,
        1.35,
        "Seconds without a heartbeat after which a service counts as dead.",
        EVERY,
        minimum=0.1,
    ),
    Option("drain_timeout", float, 30.0, "Seconds that SIGTERM leaves for running work.", EVERY, minimum=0),
    Option(
        "log_level",
        str,
        "info",
        "Least severe level logged.",
        EVERY,
        choices=("debug", "info", "warning", "error"),
    ),
    Option("log_format", str, "text", "Form of log lines.", EVERY, choices=("text", "json")),
    Option("log_requests", bool, False, "Log prompts and outputs.", ("gateway",), ("enable-log-requests",)),
    Option(
        "max_log_len", int, 2048, "Characters of a prompt that --log_requests shows.", ("gateway",), minimum=0
    ),
    # the model, as those who only need its name or tokenizer see it
    Option(
        "model_dir",
        str,
        "",
        "Directory of a Hugging Face checkpoint; empty: the demo model.",
        ("gateway", "detokenizer", "worker"),
        ("model", "model-path"),
    ),
    Option(
        "model_name", str, "", "Name that clients use; empty: the directory's.", EVERY, ("served-model-name",)
    ),
    Option(
        "tokenizer_mode",
        str,
        "auto",
        "How the tokenizer is loaded.",
        ("gateway", "detokenizer"),
        choices=("auto", "fast", "slow"),
    ),
    Option("chat_template", str, "", "A Jinja file that replaces the model's chat template.", ("gateway",)),
    # HTTP
    Option("host", str, "127.0.0.1", "Address the gateway listens on.", ("gateway",), ("server-name",)),
    Option(
        "port",
        int,
        8000,
        "Its port; further gateways take the next ones; 0 picks free ones.",
        ("gateway",),
        ("server-port",),
        minimum=0,
        maximum=65535,
    ),
    Option(
        "api_keys",
        list,
        [],
        "Keys clients must show; `key` or `key=tenant` or `key=tenant:weight`.",
        ("gateway",),
        ("api-key",),
        secret=True,
    ),
    Option("allow_origins", list, [], "Origins allowed by CORS.", ("gateway",), ("allowed-origins",)),
    Option("allow_methods", list, ["*"], "Methods allowed by CORS.", ("gateway",), ("allowed-methods",)),
    Option("allow_headers", list, ["*"], "Headers allowed by CORS.", ("gateway",), ("allowed-headers",)),
    Option("allow_credentials", bool, False, "Allow credentials by CORS.", ("gateway",)),
    Option(
        "ssl_certfile",
        str,
        "",
        "PEM file of the server's certificate; turns TLS on.",
        ("gateway",),
        ("ssl-cert",),
    ),
    Option("ssl_keyfile", str, "", "PEM file of the server's key.", ("gateway",), ("ssl-key",)),
    Option(
        "ssl_ca_certs",
        str,
        "",
        "PEM file of authorities whose client certificates are required.",
        ("gateway",),
    ),
    Option("root_path", str, "", "Path prefix that a proxy strips.", ("gateway",)),
    Option("disable_fastapi_docs", bool, False, "Serve no /docs and /openapi.json.", ("gateway",)),
    Option("max_body_bytes", int, 8 * 1024 * 1024 - 1, "Largest request body.", ("gateway",), minimum=1024),
    Option("max_stop_strings", int, 16, "Stop strings and ids per request.", ("gateway",), minimum=0),
    Option("max_choices", int, 128, "Largest n and best_of.", ("gateway",), minimum=1),
    Option("max_connections", int, 4096, "Requests a gateway carries at once.", ("gateway",), minimum=1),
    Option("timeout", float, 0.0, "Seconds after which any request ends; 0: none.", ("gateway",), minimum=0),
    Option("limit_requests_per_minute", int, 0, "Per key; 0: none.", ("gateway",), minimum=0),
    Option(
        "limit_tokens_per_minute", int, 0, "Per key, prompt and output; 0: none.", ("gateway",), minimum=0
    ),
    Option("limit_concurrency", int, 0, "Requests at once per key; 0: none.", ("gateway",), minimum=0),
    Option(
        "stream_retention",
        float,
        0.0,
        "Seconds for which a broken stream can be taken up again with Last-Event-ID; 0: only if its request asks.",
        ("gateway", "kvstore"),
        minimum=0,
        maximum=7 * 86400,
    ),
    Option(
        "max_stream_retention",
        float,
        300.0,
        "Most seconds that a request's own stream_retention may ask for; 0: none.",
        ("gateway", "kvstore"),
        minimum=0,
        maximum=7 * 86400,
    ),
    # the line
    Option(
        "max_queue",
        int,
        1024,
        "Requests that wait in a router's line before 429.",
        ("router",),
        ("max-queued-requests",),
        minimum=0,
    ),
    Option(
        "schedule_policy",
        str,
        "fair",
        "Order of the line.",
        ("router",),
        choices=("fcfs", "fair", "priority"),
    ),
    Option(
        "load_balance_method",
        str,
        "cache_aware",
        "How a worker is chosen.",
        ("router",),
        choices=("cache_aware", "round_robin", "least_loaded"),
    ),
    # how many, for `up`
    Option("workers", int, 1, "Worker processes.", ("up",), ("dp", "data-parallel-size"), minimum=1),
    Option(
        "gateways",
        int,
        1,
        "Gateway processes.",
        ("up",),
        ("httpserver_workers", "api-server-count"),
        minimum=1,
    ),
    Option("detokenizers", int, 1, "Detokenizer processes.", ("up",), minimum=1),
    Option("routers", int, 1, "Router processes.", ("up",), minimum=1),
    Option("kvstores", int, 1, "Kvstore processes.", ("up",), minimum=1),
    Option("health_monitor", bool, True, "Start a service again when it dies.", ("up",)),
    Option("detach", bool, False, "Run in the background.", ("up",)),
)

SERVING_NOT_YET: dict[str, str] = {
    "use_tgi_api": "the TGI dialect is planned; use /v1/completions",
    "enable_multimodal": "images are planned (services/visual)",
    "enable_multimodal_audio": "audio is planned",
    "metric_gateway": "a push gateway is planned; scrape /metrics of each service",
    "tool_call_parser": "Hermes calls (<tool_call>, as of Qwen) are parsed without it, other forms not yet",
    "reasoning_parser": "<think> blocks are parsed without it, other forms not yet",
    "zmq_mode": "services speak over NATS: see --nats_url",
    "run_mode": "prefill/decode disaggregation is planned; run `up` with --workers",
    "enable_metrics": "metrics are always on at /metrics",
}
