"""Every problem the service can answer with, in Chinese and English. Words only, no logic."""

from dataclasses import dataclass

from server.reasons import Language


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its HTTP status, OpenAI's error type, and its words.

    The details are `str.format` templates over the values a `Problem` carries.
    """

    status: int
    error_type: str
    title: dict[Language, str]
    detail: dict[Language, str]


def _kind(status: int, english: tuple[str, str], chinese: tuple[str, str]) -> Kind:
    error_type = "server_error" if status >= 500 else "invalid_request_error"
    return Kind(
        status,
        error_type,
        {"en": english[0], "zh": chinese[0]},
        {"en": english[1], "zh": chinese[1]},
    )


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
    "label_required": _kind(
        403,
        (
            "The label is required",
            "This server labels its pictures as made by AI (AI生成); only a key with the scope"
            " unlabelled may set label.explicit to false.",
        ),
        (
            "必须带有标识",
            "此服务器的图片须带有“AI生成”标识；仅具有 unlabelled 权限的密钥可将 label.explicit"
            " 设为 false。",
        ),
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
    "image_not_found": _kind(
        404,
        (
            "No such picture",
            "There is no picture {received}; those of other keys are not shown, and none is kept"
            " longer than the answer's expires_at.",
        ),
        ("没有此图片", "没有图片 {received}；其他密钥的图片不可见，超过 expires_at 即被删除。"),
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
    "image_expired": _kind(
        410,
        ("The picture has expired", "Picture {received} was kept for {allowed} hours, no longer."),
        ("图片已过期", "图片 {received} 只保留 {allowed} 小时。"),
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
