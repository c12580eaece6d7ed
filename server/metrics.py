"""The numbers at `/metrics`. No prompt, id or user is ever a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from rapid_diffusion import EngineWork, GenerationResult

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_STEP_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("requests", "Answers, but of probes and operators", "status")
        self.running = self._gauge("requests_running", "Requests being drawn")
        self.ready = self._gauge("ready", "1 while pictures can be drawn, else 0")
        self.waiting = self._gauge("requests_waiting", "Requests in the queue")
        self.work_seconds = self._gauge("work_seconds_queued", "Estimated work that is accepted")
        self.latency = self._histogram("e2e_latency_seconds", "From request to answer, successes")
        self.queue_wait = self._histogram("queue_wait_seconds", "From accepted to started")
        self.stage = self._histogram("stage_latency_seconds", "One station of one run", "stage")
        self.step = self._histogram(
            "step_latency_seconds", "One call of the UNet", "bucket", "rows", buckets=_STEP_SECONDS
        )
        self.occupancy = self._histogram(
            "batch_occupancy_ratio", "Rows of a call that were somebody's", buckets=_SHARES
        )
        self.recompiles = self._counter("recompiles", "Graphs compiled after it was ready")
        self.nan_retries = self._counter("nan_retries", "Pictures begun again in float32")
        self.cancel_latency = self._histogram("cancel_latency_seconds", "From cancel to ended")
        self.admission_rejected = self._counter("admission_rejected", "Refused, 503", "reason")
        self.links = self._counter("knowledge_links", "Entities linked; prompts without", "result")
        self.connections_refused = self._counter(
            "connections_refused", "Closed before a request", "reason"
        )
        self.journals = self._counter("journals_set_aside", "Damaged journals, renamed")
        self.worker_losses = self._counter("worker_losses", "Worker processes lost", "reason")
        self.jobs = self._counter("jobs", "Jobs accepted, and how they ended", "status")
        self.jobs_waiting = self._gauge("jobs_waiting", "Accepted jobs that are not being drawn")
        self.webhooks = self._counter("webhooks", "Attempts to tell of a job's end", "result")
        self.webhooks_waiting = self._gauge("webhooks_waiting", "Ends of jobs that are not told")
        self.pixels = self._counter("image_pixels", "Pixels delivered")
        self.loop_lag = self._gauge("event_loop_lag_seconds", "Lateness of the last wake-up")
        self.filtered = self._counter("content_filtered", "Refused, 422", "by")
        self.reloads = self._counter(
            "reloads", "Exchanges asked for by operators", "what", "result"
        )
        self.knowledge = Info("t2i_knowledge_version", "The graph in use", registry=self.registry)

    def observe_result(self, result: GenerationResult, queue_seconds: float) -> None:
        """Count one finished run."""
        self.queue_wait.observe(queue_seconds)
        for stage, seconds in result.timings.items():
            self.stage.labels(stage=stage).observe(seconds)
        for links in result.links:
            self.links.labels(result="linked").inc(len(links))
            self.links.labels(result="none").inc(not links)
        count, height, width = result.images.shape[:3]
        self.pixels.inc(count * height * width)

    def observe_work(self, work: EngineWork) -> None:
        """Count what the engine has done; the bucket is the latents' width and height."""
        for call in work.calls:
            bucket = f"{call.width}x{call.height}"
            self.step.labels(bucket=bucket, rows=call.rows).observe(call.seconds)
            self.occupancy.observe(call.taken / call.rows)
        self.nan_retries.inc(work.retries)
        self.recompiles.inc(work.compilations)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"t2i_{name}", words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"t2i_{name}", words, registry=self.registry)

    def _histogram(
        self, name: str, words: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(f"t2i_{name}", words, labels, buckets=buckets, registry=self.registry)
