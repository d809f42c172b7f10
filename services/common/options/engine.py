"""Options of the worker's engine. Names are LightLLM's; the aliases are vLLM's, SGLang's and LMDeploy's."""

from __future__ import annotations

from services.common.options.base import Option

WORKER = ("worker",)

ENGINE_OPTIONS: tuple[Option, ...] = (
    Option("device", str, "auto", "Where the model runs.", WORKER, choices=("auto", "cuda", "cpu")),
    Option(
        "data_type",
        str,
        "auto",
        "Type of weights and activations; auto: float32 on cpu, the model's on cuda.",
        WORKER,
        ("dtype",),
        choices=("auto", "float32", "bfloat16", "float16", "bf16", "fp16", "fp32"),
    ),
    Option(
        "load_format",
        str,
        "auto",
        "Where weights come from.",
        WORKER,
        ("load_way",),
        choices=("auto", "safetensors", "bin", "dummy", "HF"),
    ),
    Option(
        "tp",
        int,
        1,
        "Ranks that share one model replica.",
        WORKER,
        ("tensor-parallel-size", "tp-size"),
        minimum=1,
    ),
    Option("threads", int, 0, "CPU threads per rank; 0: cores over ranks and workers.", WORKER, minimum=0),
    # memory
    Option(
        "max_total_token_num",
        int,
        0,
        "Tokens that the KV cache holds; 0: from --mem_fraction.",
        WORKER,
        ("max-total-tokens",),
        minimum=0,
    ),
    Option(
        "mem_fraction",
        float,
        0.9,
        "Share of the GPU's memory to use.",
        WORKER,
        ("gpu-memory-utilization", "mem-fraction-static", "cache-max-entry-count"),
        minimum=0.05,
        maximum=0.98,
    ),
    Option(
        "block_size",
        int,
        16,
        "Tokens of a KV block.",
        WORKER,
        ("cache-block-seq-len", "page-size"),
        minimum=1,
        maximum=256,
    ),
    Option(
        "disable_dynamic_prompt_cache",
        bool,
        False,
        "Reuse no prefixes between requests.",
        WORKER,
        ("disable-radix-cache", "no-enable-prefix-caching"),
    ),
    # scheduling
    Option(
        "running_max_req_size",
        int,
        256,
        "Sequences in the batch.",
        WORKER,
        ("max-num-seqs", "max-running-requests", "max-batch-size"),
        minimum=1,
    ),
    Option(
        "batch_max_tokens",
        int,
        8192,
        "Token budget of one step.",
        WORKER,
        ("max-num-batched-tokens", "max-prefill-tokens", "max-prefill-token-num"),
        minimum=1,
    ),
    Option(
        "mixed_batch_max_tokens",
        int,
        0,
        "Token budget of a step in which sequences decode; 0: by how many do. Smaller makes them wait less.",
        WORKER,
        minimum=0,
    ),
    Option(
        "chunked_prefill_size", int, 8192, "Prompt tokens of one sequence in one step.", WORKER, minimum=1
    ),
    Option("disable_chunked_prefill", bool, False, "Prefill each prompt in one step.", WORKER),
    Option(
        "max_req_total_len",
        int,
        0,
        "Prompt and output tokens of a request; 0: the model's limit.",
        ("worker", "gateway"),
        ("max-model-len", "context-length", "session-len"),
        minimum=0,
    ),
    Option("worker_max_waiting", int, 64, "Sequences a worker accepts beyond its batch.", WORKER, minimum=0),
    Option(
        "schedule_conservativeness",
        float,
        0.5,
        "Share of a request's possible output that admission reserves.",
        WORKER,
        minimum=0,
        maximum=1,
    ),
    # CUDA graphs
    Option(
        "disable_cudagraph",
        bool,
        False,
        "Capture no CUDA graphs.",
        WORKER,
        ("enforce-eager", "eager-mode", "disable-cuda-graph"),
    ),
    Option(
        "disable_custom_allreduce",
        bool,
        False,
        "Sum small tensors of a tensor-parallel step by NCCL too.",
        WORKER,
    ),
    Option(
        "graph_max_batch_size", int, 256, "Largest captured batch.", WORKER, ("cuda-graph-max-bs",), minimum=1
    ),
    Option("graph_split_batch_size", int, 32, "Batches up to here are captured densely.", WORKER, minimum=1),
    Option("graph_grow_step_size", int, 16, "Step between captured batches beyond.", WORKER, minimum=1),
    # determinism, names, ids
    Option("random_seed", int, 0, "Seed of dummy weights.", WORKER, ("seed",), minimum=0),
    Option("eos_id", list, [], "Ids that end a sequence; empty: the model's.", ("worker", "gateway")),
    Option(
        "replay_retention",
        float,
        30.0,
        "Seconds for which a finished stream can be replayed.",
        WORKER,
        minimum=0,
    ),
    Option(
        "watchdog_timeout",
        float,
        60.0,
        "Seconds a step may take before the worker restarts.",
        WORKER,
        minimum=1,
    ),
)

ENGINE_NOT_YET: dict[str, str] = {
    "nccl_host": "the ranks of a worker are on one machine and find each other",
    "nccl_port": "the ranks of a worker meet on a free port",
    "deterministic": "batch-invariant numerics are planned; --data_type float32 makes near-ties rare",
    "quant_type": "quantization is planned; load a bf16 checkpoint",
    "quantization": "quantization is planned; load a bf16 checkpoint",
    "quant_cfg": "quantization is planned",
    "kv_cache_dtype": "KV quantization is planned",
    "quant_policy": "KV quantization is planned",
    "mode": "attention kernels are chosen by shape",
    "mtp_mode": "speculative decoding is planned",
    "lora_paths": "LoRA is planned",
    "adapters": "LoRA is planned",
    "output_constraint_mode": "structured output is planned",
    "nnodes": "one worker runs on one machine; scale with --workers",
    "trust_remote_code": "code from checkpoints is never run",
}
