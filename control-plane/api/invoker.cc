// SPDX-License-Identifier: Apache-2.0
#include "control-plane/api/invoker.h"

#include <spdlog/spdlog.h>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "control-plane/api/fields.h"
#include "control-plane/api/records.h"
#include "control-plane/limits.h"
#include "control-plane/metering/billing.h"
#include "vmm/base/steady_clock.h"

namespace hearth::control {

using hearth::v1::Invocation;
using hearth::v1::InvokeRequest;
using hearth::v1::InvokeResponse;

namespace {

bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

absl::Status CheckRequest(const InvokeRequest& request) {
  FieldViolations violations;
  const auto header = [&](const std::string& text, size_t most, const char* field) {
    if (text.size() > most || !IsPrintable(text)) {
      violations.Add(field, absl::StrCat("at most ", most, " printable ASCII characters"));
    }
  };
  header(request.content_type(), limits::kMaxContentTypeBytes, "content_type");
  header(request.trace_parent(), limits::kMaxTraceParentBytes, "trace_parent");
  header(request.idempotency_key(), limits::kMaxIdempotencyKeyBytes, "idempotency_key");
  header(request.client_context(), limits::kMaxClientContextBytes, "client_context");
  if (request.payload().size() > limits::kMaxPayloadBytes) {
    violations.Add("payload", absl::StrCat("has ", request.payload().size(), " bytes, at most ",
                                           limits::kMaxPayloadBytes, " are allowed"));
  }
  return violations.ToStatus();
}

// A node's refusal, with the details that a client needs to try again.
absl::Status Refused(const absl::Status& status, const Route& route) {
  const std::map<std::string, std::string> metadata = {{"version", route.version->name}};
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted: {
      absl::Status full = WithQuota(WithReason(status, "NODE_BUSY", metadata), route.function,
                                    "no instance came free and the host's memory is given out");
      if (!full.GetPayload(kRetryInfoPayload)) full = WithRetry(full, absl::Seconds(1));
      return full;
    }
    case absl::StatusCode::kUnavailable:
      return WithRetry(WithReason(status, "NODE_UNAVAILABLE", metadata), absl::Seconds(1));
    case absl::StatusCode::kCancelled:
      return WithReason(status, "CANCELLED", metadata);
    case absl::StatusCode::kDeadlineExceeded:
      return WithReason(status, "NOT_STARTED_IN_TIME", metadata);
    default:
      return WithReason(status,
                        status.GetPayload(kFunctionErrorPayload) ? "FUNCTION_INIT_FAILED"
                                                                 : "INVOCATION_NOT_STARTED",
                        metadata);
  }
}

absl::Status TooManyKeptResponses(const std::string& tenant, int64_t most) {
  return WithRetry(
      WithQuota(ApiError(absl::StatusCode::kResourceExhausted, "TOO_MANY_KEPT_RESPONSES",
                         "the responses kept for idempotency_keys fill their space; call without "
                         "one, or try again when some were forgotten"),
                tenant, absl::StrCat("at most ", most, " bytes")),
      limits::kIdempotencyTime);
}

void SetError(Invocation* invocation, hearth::v1::Outcome outcome, const std::string& type,
              const std::string& message) {
  invocation->set_outcome(outcome);
  invocation->mutable_error()->Clear();
  invocation->mutable_error()->set_type(type);
  invocation->mutable_error()->set_message(message);
}

}  // namespace

bool ByteBudget::Take(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (bytes > free_) return false;
  free_ -= bytes;
  return true;
}

void ByteBudget::Give(size_t bytes) {
  absl::MutexLock lock(&mutex_);
  free_ += bytes;
}

absl::Status ByteBudget::Share::Add(size_t bytes) {
  if (budget_->Take(bytes)) {
    bytes_ += bytes;
    return absl::OkStatus();
  }
  return WithRetry(
      WithQuota(ApiError(absl::StatusCode::kResourceExhausted, "TOO_MANY_BYTES_IN_FLIGHT",
                         "the payloads and responses under way fill the memory set aside for them"),
                "hearthd", absl::StrCat("at most ", budget_->most_, " bytes at once")),
      absl::Seconds(1));
}

// Keeps the response. Over the limit it refuses, which ends the invocation.
class Invoker::Collector final : public ResponseSink {
 public:
  explicit Collector(size_t most) : most_(most) {}
  absl::Status Write(std::string bytes) override {
    total_ += static_cast<int64_t>(bytes.size());
    if (over_ || bytes_.size() + bytes.size() > most_) {
      over_ = true;
      bytes_.clear();
      return absl::ResourceExhaustedError("the response is over the limit");
    }
    if (bytes_.empty()) {
      bytes_ = std::move(bytes);
    } else {
      bytes_ += bytes;
    }
    return absl::OkStatus();
  }
  bool over() const { return over_; }
  int64_t total() const { return total_; }
  std::string Take() { return std::move(bytes_); }

 private:
  const size_t most_;
  std::string bytes_;
  int64_t total_ = 0;
  bool over_ = false;
};

Invoker::Invoker(const Parts& parts) : parts_(parts), budget_(parts.max_buffered_bytes) {}

absl::StatusOr<InvokeResponse> Invoker::Invoke(const InvokeCall& call,
                                               const Cancellation& cancellation) {
  RETURN_IF_ERROR(CheckRequest(call.request));
  ASSIGN_OR_RETURN(const Route route, parts_.router->Resolve(call.request.name()));
  const std::string name = absl::StrCat(route.function, "/invocations/", parts_.uuids->Next());
  if (call.request.idempotency_key().empty()) {
    return Once(call, route, name, /*mine=*/nullptr, cancellation);
  }
  return Idempotent(call, route, name, cancellation);
}

absl::StatusOr<InvokeResponse> Invoker::Once(const InvokeCall& call, const Route& route,
                                             const std::string& name, const IdempotentCall* mine,
                                             const Cancellation& cancellation) {
  // What ran but could not be recorded would be lost: better not to run it.
  const absl::Status writable = parts_.ledger->CheckWritable();
  if (!writable.ok()) {
    return WithRetry(ApiError(absl::StatusCode::kUnavailable, "LEDGER_UNAVAILABLE",
                              absl::StrCat("usage cannot be recorded now, so nothing is run: ",
                                           writable.message())),
                     absl::Seconds(10));
  }
  auto reservation = parts_.node->Reserve(route.version, call.deadline, cancellation);
  if (!reservation.ok()) return Refused(reservation.status(), route);
  RETURN_IF_ERROR(call.share->Add(call.max_response_bytes));
  // A client that broke off while it sent has not sent all: what it meant must not be run.
  if (cancellation.cancelled()) {
    return Refused(absl::CancelledError("the client left before it was started"), route);
  }
  // Only now: hearthd killed while it waited for an instance must not find that it has run.
  if (mine != nullptr) RETURN_IF_ERROR(KeepBegun(*mine, route.version->name));
  const Cancellation& stop = mine == nullptr ? cancellation : ending_;

  Invocation started;
  started.set_name(name);
  started.set_version(route.version->name);
  started.set_instance((*reservation)->instance_name());
  parts_.logs->AddPlatformLine(started, StartLine(started));

  InvocationRequest request;
  request.id = IdOf(name);
  request.content_type =
      call.request.content_type().empty() ? "application/json" : call.request.content_type();
  request.trace_parent = call.request.trace_parent();
  request.client_context = call.request.client_context();
  request.arrival = call.arrival;
  request.payload = call.request.payload();
  Collector collector(call.max_response_bytes);
  auto report = parts_.node->Invoke(*std::move(reservation), request, collector, stop);
  if (!report.ok()) {
    parts_.logs->AddPlatformLine(
        started, absl::StrCat(EndLine(started), " (not started: ", report.status().message(), ")"));
    return Refused(report.status(), route);
  }
  InvokeResponse response;
  Settle(call, route, name, *std::move(report), collector, &response);
  return response;
}

void Invoker::Settle(const InvokeCall& call, const Route& route, const std::string& name,
                     InvocationReport report, Collector& collector, InvokeResponse* response) {
  Invocation& invocation = *response->mutable_invocation();
  invocation = std::move(report.invocation);
  const absl::Duration total = SteadyNow() - call.arrival;
  const absl::Time end = absl::Now();
  invocation.set_name(name);
  invocation.set_version(route.version->name);
  *invocation.mutable_start_time() = ToTimestamp(end - total);
  *invocation.mutable_end_time() = ToTimestamp(end);
  *invocation.mutable_timing()->mutable_total() = ToDuration(total);
  if (invocation.outcome() == hearth::v1::OUTCOME_UNSPECIFIED) {
    SetError(&invocation, hearth::v1::INSTANCE_LOST, "Hearth.NoOutcome",
             "the node did not say how the invocation ended");
  }
  if (collector.over()) {
    SetError(&invocation, hearth::v1::FUNCTION_ERROR, "Hearth.ResponseTooLarge",
             absl::StrCat("the response is over the limit of ", call.max_response_bytes, " bytes",
                          call.max_response_bytes < limits::kMaxResponseBytes
                              ? "; InvokeStream allows more"
                              : ""));
  }
  auto* host = invocation.mutable_usage()->mutable_host();
  host->set_memory_mib(route.version->memory_mib);
  host->set_request_bytes(static_cast<int64_t>(call.request.payload().size()));
  host->set_response_bytes(collector.total());
  Bill(&invocation);
  const absl::Status recorded = parts_.ledger->Append(invocation);
  if (!recorded.ok()) {
    // It ran, so the answer is OK; but what has no record is not given out, nor billed.
    spdlog::error("usage of {} is not recorded: {}", name, std::string(recorded.message()));
    SetError(&invocation, hearth::v1::INSTANCE_LOST, "Hearth.UsageNotRecorded",
             absl::StrCat("the usage record could not be written, so the response is withheld: ",
                          recorded.message()));
    invocation.mutable_usage()->clear_billed();
  } else if (!collector.over()) {
    response->set_payload(collector.Take());
    response->set_content_type(report.content_type);
  }
  parts_.logs->AddPlatformLine(invocation, EndLine(invocation));
  parts_.logs->AddPlatformLine(invocation, ReportLine(invocation));
}

absl::Status Invoker::AwaitTurn(const std::string& key, const Cancellation& cancellation) {
  bool cancelled = false;
  const auto registration = cancellation.OnCancel([&] {
    absl::MutexLock lock(&mutex_);
    cancelled = true;
  });
  absl::MutexLock lock(&mutex_);
  const auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return cancelled || running_.count(key) == 0;
  };
  mutex_.Await(absl::Condition(&free));
  if (cancelled) {
    return ApiError(absl::StatusCode::kCancelled, "CANCELLED",
                    "the client left while the same invocation was under way");
  }
  running_.insert(key);
  return absl::OkStatus();
}

absl::StatusOr<InvokeResponse> Invoker::Idempotent(const InvokeCall& call, const Route& route,
                                                   const std::string& name,
                                                   const Cancellation& cancellation) {
  IdempotentCall mine;
  mine.function = route.function;
  mine.key = call.request.idempotency_key();
  mine.invocation = name;
  InvokeRequest relevant = call.request;
  relevant.clear_trace_parent();  // A repeat may be part of another trace.
  mine.request_digest = DigestOfMessage(relevant);
  const std::string key = absl::StrCat(mine.function, "\n", mine.key);
  RETURN_IF_ERROR(AwaitTurn(key, cancellation));

  auto answer = [&]() -> absl::StatusOr<InvokeResponse> {
    ASSIGN_OR_RETURN(auto known, Repeated(mine, call.share));
    if (known.has_value()) return *std::move(known);
    auto response = Once(call, route, name, &mine, cancellation);
    if (response.ok()) mine.response = response->SerializeAsString();
    const absl::Status kept = KeepEnded(mine);
    // Then a repeat will say that the response was lost: true, and it is not run twice.
    if (!kept.ok())
      spdlog::error("cannot keep the response of {}: {}", name, std::string(kept.message()));
    return response;
  }();
  absl::MutexLock lock(&mutex_);
  running_.erase(key);
  return answer;
}

absl::Status Invoker::KeepBegun(const IdempotentCall& mine, const std::string& version) {
  return parts_.metadata->Write([&](MetadataTransaction& t) -> absl::Status {
    // Deleted meanwhile: a function of that name that is made again must know nothing of this call.
    RETURN_IF_ERROR(Load<hearth::v1::Version>(t, Kind::kVersion, version).status());
    return t.PutCall(mine, absl::Now() + limits::kIdempotencyTime);
  });
}

absl::Status Invoker::KeepEnded(const IdempotentCall& mine) {
  return parts_.metadata->Write([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(const auto begun, t.FindCall(mine.function, mine.key));
    // Not begun, or forgotten with its function.
    if (!begun.has_value() || begun->invocation != mine.invocation) return absl::OkStatus();
    if (!mine.response.has_value()) return t.EraseCall(mine.function, mine.key);
    return t.PutCall(mine, absl::Now() + limits::kIdempotencyTime);
  });
}

absl::StatusOr<absl::optional<InvokeResponse>> Invoker::Repeated(const IdempotentCall& mine,
                                                                 ByteBudget::Share* share) {
  absl::optional<IdempotentCall> earlier;
  RETURN_IF_ERROR(parts_.metadata->Write([&](MetadataTransaction& t) -> absl::Status {
    RETURN_IF_ERROR(t.Expire(absl::Now()));
    ASSIGN_OR_RETURN(earlier, t.FindCall(mine.function, mine.key));
    if (earlier.has_value()) {
      return share->Add(earlier->response.has_value() ? earlier->response->size() : 0);
    }
    const std::string tenant = ParentOf(mine.function);
    ASSIGN_OR_RETURN(const int64_t bytes, t.CallBytes(tenant));
    const int64_t most = parts_.max_kept_response_bytes;
    return bytes > most ? TooManyKeptResponses(tenant, most) : absl::OkStatus();
  }));
  if (!earlier.has_value()) return absl::optional<InvokeResponse>();
  if (earlier->request_digest != mine.request_digest) {
    return ApiError(absl::StatusCode::kInvalidArgument, "IDEMPOTENCY_KEY_REUSED",
                    "this idempotency_key came before with another request; use a new one",
                    {{"invocation", earlier->invocation}});
  }
  if (!earlier->response.has_value()) {
    ASSIGN_OR_RETURN(InvokeResponse lost, Lost(*earlier));
    return absl::optional<InvokeResponse>(std::move(lost));
  }
  InvokeResponse response;
  if (!response.ParseFromString(*earlier->response)) {
    return absl::DataLossError("the kept response is damaged");
  }
  return absl::optional<InvokeResponse>(std::move(response));
}

absl::StatusOr<InvokeResponse> Invoker::Lost(const IdempotentCall& call) {
  InvokeResponse response;
  Invocation& invocation = *response.mutable_invocation();
  auto recorded = parts_.ledger->Get(call.invocation);
  if (recorded.ok()) {
    invocation = *std::move(recorded);
  } else {
    invocation.set_name(call.invocation);
    *invocation.mutable_end_time() = ToTimestamp(absl::Now());
    invocation.mutable_usage()->mutable_billed()->set_invocations(1);
  }
  SetError(&invocation, hearth::v1::INSTANCE_LOST, "Hearth.ResponseLost",
           "hearthd ended while this ran, or could not keep the response");
  RETURN_IF_ERROR(parts_.ledger->Append(invocation));  // Once: a record that is there stays.
  IdempotentCall ended = call;
  ended.response = response.SerializeAsString();
  RETURN_IF_ERROR(KeepEnded(ended));
  return response;
}

absl::Status Invoker::Recover() {
  std::vector<IdempotentCall> open;
  RETURN_IF_ERROR(parts_.metadata->Read([&](MetadataTransaction& t) -> absl::Status {
    ASSIGN_OR_RETURN(open, t.OpenCalls());
    return absl::OkStatus();
  }));
  for (const IdempotentCall& call : open) RETURN_IF_ERROR(Lost(call).status());
  return absl::OkStatus();
}

}  // namespace hearth::control
