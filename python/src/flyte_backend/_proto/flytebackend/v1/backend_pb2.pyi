from flyteidl.admin import agent_pb2 as _agent_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskRef(_message.Message):
    __slots__ = ("task_category", "plugin_version", "resource_meta", "output_prefix")
    TASK_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_META_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PREFIX_FIELD_NUMBER: _ClassVar[int]
    task_category: _agent_pb2.TaskCategory
    plugin_version: str
    resource_meta: bytes
    output_prefix: str
    def __init__(self, task_category: _Optional[_Union[_agent_pb2.TaskCategory, _Mapping]] = ..., plugin_version: _Optional[str] = ..., resource_meta: _Optional[bytes] = ..., output_prefix: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("resource", "poll_after")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    POLL_AFTER_FIELD_NUMBER: _ClassVar[int]
    resource: _agent_pb2.Resource
    poll_after: _duration_pb2.Duration
    def __init__(self, resource: _Optional[_Union[_agent_pb2.Resource, _Mapping]] = ..., poll_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("code", "message", "retry_after")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    retry_after: _duration_pb2.Duration
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., retry_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetTasksRequest(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[TaskRef]
    def __init__(self, tasks: _Optional[_Iterable[_Union[TaskRef, _Mapping]]] = ...) -> None: ...

class GetTasksResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    def __init__(self, results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("task", "error")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    task: Task
    error: Error
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class WatchTasksRequest(_message.Message):
    __slots__ = ("follow", "unfollow")
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    UNFOLLOW_FIELD_NUMBER: _ClassVar[int]
    follow: _containers.RepeatedCompositeFieldContainer[WatchedTask]
    unfollow: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, follow: _Optional[_Iterable[_Union[WatchedTask, _Mapping]]] = ..., unfollow: _Optional[_Iterable[int]] = ...) -> None: ...

class WatchedTask(_message.Message):
    __slots__ = ("watch_id", "task")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    task: TaskRef
    def __init__(self, watch_id: _Optional[int] = ..., task: _Optional[_Union[TaskRef, _Mapping]] = ...) -> None: ...

class WatchTasksResponse(_message.Message):
    __slots__ = ("watch_id", "result")
    WATCH_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    watch_id: int
    result: TaskResult
    def __init__(self, watch_id: _Optional[int] = ..., result: _Optional[_Union[TaskResult, _Mapping]] = ...) -> None: ...
