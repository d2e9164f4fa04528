// SPDX-License-Identifier: Apache-2.0
#include "cli/failure.h"

#include "cli/format.h"
#include "google/rpc/error_details.pb.h"
#include "hearth/v1/resources.pb.h"

namespace hearth::cli {
namespace {

const char* CodeName(int code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  if (code < 0 || code >= static_cast<int>(std::size(kNames))) return "UNKNOWN";
  return kNames[code];
}

int ExitCodeFor(int code) {
  switch (code) {
    case grpc::StatusCode::UNAVAILABLE:
      return kExitUnreachable;
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
    case grpc::StatusCode::ABORTED:
      return kExitRetry;
    case grpc::StatusCode::CANCELLED:
      return kExitInterrupted;
    default:
      return kExitFailed;
  }
}

// Advice that fits a code when the server's details gave none.
void AddAdviceFor(int code, Failure* failure) {
  switch (code) {
    case grpc::StatusCode::NOT_FOUND:
      failure->advice.push_back("`hearth list` shows what there is.");
      break;
    case grpc::StatusCode::UNAVAILABLE:
      failure->advice.push_back("See that hearthd still runs (`hearth doctor`), then try again.");
      break;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      failure->advice.push_back(
          "hearthd did not answer in time; `hearth list instances` shows what keeps it busy.");
      break;
    case grpc::StatusCode::UNIMPLEMENTED:
      failure->advice.push_back("This hearthd cannot do that; is it older than this `hearth`?");
      break;
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DATA_LOSS:
      failure->advice.push_back("This is hearthd's fault, not yours: its log says more.");
      break;
    default:
      break;
  }
}

void ReadDetail(const google::protobuf::Any& any, Failure* failure) {
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::QuotaFailure quota;
  google::rpc::RetryInfo retry;
  google::rpc::PreconditionFailure precondition;
  google::rpc::ResourceInfo resource;
  hearth::v1::FunctionError function;
  if (any.UnpackTo(&info)) {
    failure->reason = info.reason();
    failure->metadata.insert(info.metadata().begin(), info.metadata().end());
  } else if (any.UnpackTo(&bad_request)) {
    for (const auto& violation : bad_request.field_violations()) {
      failure->facts.push_back(violation.field() + ": " + violation.description());
    }
  } else if (any.UnpackTo(&quota)) {
    for (const auto& violation : quota.violations()) {
      failure->facts.push_back(violation.subject() + ": " + violation.description());
    }
  } else if (any.UnpackTo(&precondition)) {
    for (const auto& violation : precondition.violations()) {
      failure->facts.push_back(violation.subject() + ": " + violation.description());
    }
  } else if (any.UnpackTo(&resource)) {
    if (!resource.description().empty()) {
      failure->facts.push_back(resource.resource_name() + ": " + resource.description());
    }
  } else if (any.UnpackTo(&function)) {
    // Its type and message are in the error's own text.
    for (const std::string& line : function.stack_trace()) {
      failure->facts.push_back(line.substr(0, line.find_last_not_of('\n') + 1));
    }
  } else if (any.UnpackTo(&retry)) {
    failure->retry_after_ms =
        retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
  }
}

}  // namespace

CliError UsageError(std::string message, std::vector<std::string> advice,
                    std::vector<std::string> facts) {
  Failure failure;
  failure.exit_code = kExitUsage;
  failure.code = "USAGE";
  failure.message = std::move(message);
  failure.facts = std::move(facts);
  failure.advice = std::move(advice);
  return CliError(std::move(failure));
}

CliError LocalError(std::string message, std::vector<std::string> advice) {
  Failure failure;
  failure.code = "LOCAL";
  failure.message = std::move(message);
  failure.advice = std::move(advice);
  return CliError(std::move(failure));
}

Failure FromRpcStatus(const google::rpc::Status& status, const std::string& what) {
  Failure failure;
  failure.code = CodeName(status.code());
  failure.exit_code = ExitCodeFor(status.code());
  failure.message =
      "cannot " + what + ": " + (status.message().empty() ? failure.code : status.message());
  for (const auto& any : status.details()) ReadDetail(any, &failure);
  if (failure.retry_after_ms >= 0) {
    failure.exit_code = kExitRetry;
    failure.advice.push_back("Try again in " + FormatDuration(failure.retry_after_ms / 1000.0) +
                             ".");
  }
  if (status.code() == grpc::StatusCode::UNAVAILABLE && !failure.reason.empty()) {
    // hearthd itself answered, so it can be reached: what is not available lies behind it.
    if (failure.exit_code == kExitUnreachable) failure.exit_code = kExitFailed;
    failure.advice.push_back(
        "This is the host's trouble, not yours: `hearth doctor` and hearthd's log say more.");
    return failure;
  }
  AddAdviceFor(status.code(), &failure);
  return failure;
}

Failure FromStatus(const grpc::Status& status, const std::string& what) {
  google::rpc::Status rich;
  // Details that do not parse are no reason to hide the error itself.
  if (!rich.ParseFromString(status.error_details())) rich.Clear();
  rich.set_code(status.error_code());
  rich.set_message(status.error_message());
  return FromRpcStatus(rich, what);
}

std::string RenderText(const Failure& failure, bool colour) {
  std::string text = colour ? "\033[1;31merror\033[0m  " : "error  ";
  text += SafeText(failure.message) + "\n";
  for (const std::string& fact : failure.facts) text += "       " + SafeText(fact) + "\n";
  if (!failure.reason.empty()) {
    text += "       (" + SafeText(failure.reason);
    for (const auto& [key, value] : failure.metadata) {
      text += ", " + SafeText(key) + " " + SafeText(value);
    }
    text += ")\n";
  }
  for (const std::string& advice : failure.advice) text += "  -->  " + SafeText(advice) + "\n";
  return text;
}

nlohmann::json RenderJson(const Failure& failure) {
  nlohmann::json error = {{"code", failure.code},
                          {"message", failure.message},
                          {"exitCode", failure.exit_code},
                          {"facts", failure.facts},
                          {"advice", failure.advice}};
  if (!failure.reason.empty()) error["reason"] = failure.reason;
  if (!failure.metadata.empty()) error["metadata"] = failure.metadata;
  if (failure.retry_after_ms >= 0) error["retryAfterMs"] = failure.retry_after_ms;
  return {{"error", error}};
}

}  // namespace hearth::cli
