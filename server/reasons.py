"""What can be wrong with one field, in Chinese and English. Words only, no logic."""

from typing import Literal

Language = Literal["en", "zh"]

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
    "needs_state": {
        "en": "must be b64_json or binary: this server keeps no pictures; start it with --state",
        "zh": "只能为 b64_json 或 binary：此服务器不保存图片；请用 --state 目录 启动",
    },
    "no_stream": {
        "en": "must be 0 or left out without stream: nothing else shows them",
        "zh": "未使用 stream 时必须为 0 或省略",
    },
    "single_candidate": {
        "en": "must be 0 with num_candidates above 1: which one is the picture is known at the end",
        "zh": "num_candidates 大于 1 时必须为 0：最后才知道选中哪一张",
    },
    "label_too_small": {
        "en": "must be left out: a picture of {size} pixels cannot hold the text; enlarge it",
        "zh": "必须省略：{size} 像素的图片放不下标识文字；请放大图片",
    },
    "label_nowhere": {
        "en": "must be left out where label.explicit is false",
        "zh": "label.explicit 为 false 时必须省略",
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
