"""Every problem the service can answer with, in Chinese and English. Words only, no logic."""

from server.kinds import Kind, Language
from server.kinds import make_kind as _kind

__all__ = ["KINDS", "REASONS", "Kind", "Language"]

KINDS: dict[str, Kind] = {
    "invalid_json": _kind(
        400,
        ("The body is not JSON", "{reason}. Send one JSON object in UTF-8, each name once."),
        ("请求体不是有效的 JSON", "{reason}。请发送一个 UTF-8 编码的 JSON 对象，字段名不可重复。"),
    ),
    "unauthorized": _kind(
        401,
        ("A key is needed", "Send a key of this server as Authorization: Bearer KEY."),
        ("需要密钥", "请用 Authorization: Bearer 密钥 发送此服务器的密钥。"),
    ),
    "forbidden_host": _kind(
        403,
        (
            "Host not allowed",
            "The Host header is {received}; allowed: {allowed}."
            " Add yours to RAPID_DIFFUSION_ALLOWED_HOSTS.",
        ),
        (
            "不允许的 Host",
            "Host 为 {received}；允许：{allowed}。可用 RAPID_DIFFUSION_ALLOWED_HOSTS 添加。",
        ),
    ),
    "cross_origin": _kind(
        403,
        ("Cross-origin request", "The Origin header is {received}; call from the same origin."),
        ("跨源请求被拒绝", "Origin 为 {received}；请从同源页面调用。"),
    ),
    "not_found": _kind(
        404,
        ("Not found", "There is nothing at {received}; see /openapi.json for what there is."),
        ("未找到", "{received} 不存在；可用的地址见 /openapi.json。"),
    ),
    "method_not_allowed": _kind(
        405,
        ("Method not allowed", "{received} is not answered here; allowed: {allowed}."),
        ("不支持的方法", "此处不支持 {received}；允许：{allowed}。"),
    ),
    "deadline": _kind(
        408,
        (
            "The deadline has passed",
            "The picture was not ready within {received} ms and was given up."
            " Allow more time or ask for fewer steps.",
        ),
        ("已超过期限", "图片未能在 {received} 毫秒内完成，已放弃。请放宽期限或减少步数。"),
    ),
    "job_not_found": _kind(
        404,
        ("No such job", "There is no job {received}; jobs of other keys are not shown."),
        ("没有此任务", "没有任务 {received}；其他密钥的任务不可见。"),
    ),
    "jobs_off": _kind(
        404,
        ("Jobs are off", "This server keeps no jobs; start it with --state FOLDER."),
        ("未启用任务", "此服务器不保存任务；请用 --state 目录 启动。"),
    ),
    "job_over": _kind(
        409,
        ("The job is over", "Job {received} is {status} and can no longer be canceled."),
        ("任务已结束", "任务 {received} 的状态为 {status}，无法取消。"),
    ),
    "idempotency_conflict": _kind(
        409,
        (
            "Idempotency-Key used for another request",
            "The Idempotency-Key {received} belongs to a job with another body;"
            " use a new key for a new request.",
        ),
        ("幂等键已用于其他请求", "Idempotency-Key {received} 属于另一个请求体；请使用新的键。"),
    ),
    "job_expired": _kind(
        410,
        ("The job has expired", "Job {received} ended more than {allowed} hours ago."),
        ("任务已过期", "任务 {received} 结束已超过 {allowed} 小时。"),
    ),
    "slow_body": _kind(
        408,
        ("The body came too slowly", "The body was not complete within {allowed} s."),
        ("请求体发送过慢", "请求体未能在 {allowed} 秒内发送完毕。"),
    ),
    "exchange_refused": _kind(
        409,
        ("The exchange was refused", "{reason}. What was in use stays: {kept}."),
        ("更换被拒绝", "{reason}。原有内容继续使用：{kept}。"),
    ),
    "body_too_large": _kind(
        413,
        ("The body is too large", "The body holds {received} bytes; at most {allowed} are read."),
        ("请求体过大", "请求体为 {received} 字节；最多 {allowed} 字节。"),
    ),
    "unsupported_media_type": _kind(
        415,
        ("Not a JSON body", "Content-Type is {received}; send application/json."),
        ("请求体类型不支持", "Content-Type 为 {received}；请使用 application/json。"),
    ),
    "invalid_parameter": _kind(
        422,
        ("Invalid parameter", "{reason}"),
        ("参数无效", "{reason}"),
    ),
    "unsupported_size": _kind(
        422,
        (
            "Unsupported size",
            "The size is {received} (width x height); this model draws {allowed}.",
        ),
        ("不支持的尺寸", "尺寸为 {received}（宽 x 高）；此模型支持 {allowed}。"),
    ),
    "content_filtered": _kind(
        422,
        ("Refused by the rules", "The rules of this service's operator do not allow this request."),
        ("内容不被允许", "此服务运营方的规则不允许该请求。"),
    ),
    "not_implemented": _kind(
        422,
        ("Not built yet", "{param} = {received} is not built yet; use {allowed}."),
        ("尚未实现", "{param} = {received} 尚未实现；请使用 {allowed}。"),
    ),
    "rate_limited": _kind(
        429,
        (
            "Your allowance is used up",
            "This request takes about {received} s of drawing; your key has {allowed} s a minute.",
        ),
        ("已超出配额", "此请求约需 {received} 秒绘图时间；您的密钥每分钟有 {allowed} 秒。"),
    ),
    "canceled": _kind(
        499,
        ("Canceled", "The request was given up because its client went away."),
        ("已取消", "客户端已断开，请求已放弃。"),
    ),
    "internal": _kind(
        500,
        ("Internal error", "The server failed; its log has the cause under this request's id."),
        ("内部错误", "服务器出错；原因在日志中，可按请求编号查找。"),
    ),
    "missing_dependency": _kind(
        500,
        ("A package is missing", "The server lacks an optional package; its log names it."),
        ("缺少组件", "服务器缺少可选组件；名称见日志。"),
    ),
    "overloaded": _kind(
        503,
        (
            "Overloaded",
            "{received} requests wait, {seconds} s of work are before yours. Try again later.",
        ),
        ("服务繁忙", "已有 {received} 个请求在排队，前面约有 {seconds} 秒的工作。请稍后重试。"),
    ),
    "worker_lost": _kind(
        503,
        (
            "The worker was lost",
            "The worker died {received} times while it drew this picture, which was given up.",
        ),
        ("绘图进程中断", "绘制此图时绘图进程中断了 {received} 次，已放弃。"),
    ),
    "storage_unavailable": _kind(
        503,
        (
            "No room for another job",
            "The state folder cannot take another job ({reason}). Try again later.",
        ),
        ("无法保存任务", "状态目录无法再保存任务（{reason}）。请稍后重试。"),
    ),
    "draining": _kind(
        503,
        ("Shutting down", "The server finishes what it has and takes nothing new."),
        ("正在关闭", "服务器正在完成已有请求，不再接受新请求。"),
    ),
    "not_ready": _kind(
        503,
        ("Not ready", "The worker that draws the pictures is not running."),
        ("尚未就绪", "绘图进程未在运行。"),
    ),
    "out_of_device_memory": _kind(
        503,
        ("Out of device memory", "The device had no room for this picture. Try again later."),
        ("显存不足", "设备内存不足以绘制此图。请稍后重试。"),
    ),
}

# pydantic's (and our) error types -> what is wrong, in words. `{allowed}` etc. come from its ctx.
REASONS: dict[str, dict[Language, str]] = {
    "missing": {"en": "is required", "zh": "为必填项"},
    "extra_forbidden": {
        "en": "is not a known field; see /openapi.json for the fields",
        "zh": "不是已知字段；字段见 /openapi.json",
    },
    "string_type": {"en": "must be a string", "zh": "必须是字符串"},
    "string_unicode": {
        "en": "must be valid Unicode without lone surrogates",
        "zh": "必须是有效的 Unicode，不能含单独的代理字符",
    },
    "string_too_short": {
        "en": "must hold at least {min_length} characters",
        "zh": "至少需要 {min_length} 个字符",
    },
    "string_too_long": {
        "en": "must hold at most {max_length} characters",
        "zh": "最多 {max_length} 个字符",
    },
    "blank": {"en": "must not be blank", "zh": "不能为空白"},
    "control_character": {
        "en": "must not hold the control character U+{code}",
        "zh": "不能含控制字符 U+{code}",
    },
    "int_type": {"en": "must be an integer", "zh": "必须是整数"},
    "float_type": {"en": "must be a number", "zh": "必须是数字"},
    "bool_type": {"en": "must be true or false", "zh": "必须是 true 或 false"},
    "finite_number": {"en": "must be a finite number", "zh": "必须是有限的数"},
    "greater_than_equal": {"en": "must be at least {ge}", "zh": "不能小于 {ge}"},
    "less_than_equal": {"en": "must be at most {le}", "zh": "不能大于 {le}"},
    "literal_error": {"en": "must be one of {expected}", "zh": "必须是 {expected} 之一"},
    "unsupported_value": {
        "en": "must be one of {expected} with this model",
        "zh": "此模型仅支持 {expected}",
    },
    "too_short": {
        "en": "must hold at least {min_length} items",
        "zh": "至少需要 {min_length} 项",
    },
    "too_long": {"en": "must hold at most {max_length} items", "zh": "最多 {max_length} 项"},
    "entities_type": {
        "en": "must be 'auto', 'off' or a list of objects with an id",
        "zh": "必须是 'auto'、'off' 或带 id 的对象列表",
    },
    "object_type": {"en": "must be a JSON object", "zh": "必须是 JSON 对象"},
    "span_incomplete": {
        "en": "start and end belong together; give both or neither",
        "zh": "start 与 end 必须同时给出或同时省略",
    },
    "span_outside": {
        "en": "must satisfy 0 <= start < end <= {length}, the length of the prompt",
        "zh": "必须满足 0 <= start < end <= {length}（提示词长度）",
    },
    "no_knowledge": {
        "en": "must be 'auto' or 'off': this model has no knowledge graph",
        "zh": "只能为 'auto' 或 'off'：此模型没有知识图谱",
    },
    "no_adapters": {
        "en": "must be left out: this server has no adapter loaded",
        "zh": "必须省略：此服务未加载任何适配器",
    },
    "no_adapter_named": {
        "en": "must be left out where no adapter is named",
        "zh": "未指定 adapter 时必须省略",
    },
    "webhook_url": {
        "en": "must be an https URL without password and fragment (http only for hosts of"
        " RAPID_DIFFUSION_WEBHOOK_HOSTS)",
        "zh": "必须是不含密码和片段的 https 网址"
        "（仅 RAPID_DIFFUSION_WEBHOOK_HOSTS 中的主机可用 http）",
    },
    "webhook_private": {
        "en": "must not lead to this machine or a private network",
        "zh": "不能指向本机或内部网络",
    },
    "webhook_keys": {
        "en": "must be left out: webhooks are signed by the caller's key, and this server has none",
        "zh": "必须省略：webhook 用调用者的密钥签名，而此服务器没有密钥",
    },
    "single_picture": {
        "en": "must be 1 where the answer is the picture itself (response_format binary)",
        "zh": "直接返回图片（response_format binary）时必须为 1",
    },
    "idempotency_key": {
        "en": "must be 1 to 255 printable ASCII characters without blanks",
        "zh": "必须为 1 到 255 个可打印 ASCII 字符，不含空格",
    },
    "accept_conflict": {
        "en": "must agree with the Accept header, which asks for {expected}",
        "zh": "必须与 Accept 头要求的 {expected} 一致",
    },
}
