// SPDX-License-Identifier: Apache-2.0
#include "control-plane/node/outcome.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "wire/text.h"

namespace hearth::control {
namespace {

using hearth::v1::FunctionError;

FunctionError MakeError(absl::string_view type, absl::string_view message) {
  FunctionError error;
  error.set_type(std::string(type));
  error.set_message(std::string(message));
  return error;
}

Verdict Lost(absl::string_view why) {
  Verdict verdict;
  verdict.outcome = hearth::v1::INSTANCE_LOST;
  verdict.error = MakeError("Sandbox.InstanceLost", why);
  return verdict;
}

Verdict TimedOut(absl::Duration timeout) {
  Verdict verdict;
  verdict.outcome = hearth::v1::TIMED_OUT;
  verdict.error = MakeError("Sandbox.TimedOut", absl::StrCat("the invocation did not end within ",
                                                             absl::FormatDuration(timeout)));
  return verdict;
}

Verdict WithoutReply(const InvocationEnd& end) {
  const SessionResult& session = end.session;
  Verdict verdict;
  if (!session.sent) {
    verdict.not_started = absl::UnavailableError(absl::StrCat(
        "the instance was lost before the invocation: ", session.connection.message()));
    return verdict;
  }
  if (end.expired) return TimedOut(end.timeout);
  std::string why(session.connection.message());
  if (end.exit.has_value() && !absl::StrContains(why, end.exit->detail)) {
    absl::StrAppend(&why, "; the machine ended: ", end.exit->detail);
  }
  return Lost(why);
}

// hearthd itself stopped the invocation, and the agent confirmed. Whether user code had started is
// only its word: what has reached it is billed.
Verdict Stopped(const SessionResult& session) {
  Verdict verdict;
  verdict.outcome = hearth::v1::FUNCTION_ERROR;
  verdict.error =
      MakeError(session.response_too_large ? "Function.ResponseSizeTooLarge" : "Sandbox.Cancelled",
                session.stopped.message());
  return verdict;
}

}  // namespace

Verdict Judge(const InvocationEnd& end) {
  const SessionResult& session = end.session;
  if (!session.reply.has_value()) return WithoutReply(end);
  if (!session.reply->has_invocation_result()) {
    // That it refuses is no proof that user code did not start.
    return Lost(absl::StrCat("the agent refused the invocation: ",
                             wire::SanitizeText(session.reply->error().message(), 1024)));
  }
  const agent::v1::InvocationResult& result = session.reply->invocation_result();
  Verdict verdict;
  if (!session.stopped.ok() &&
      (session.response_too_large || result.outcome() != agent::v1::OUTCOME_SUCCEEDED)) {
    verdict = Stopped(session);
  } else {
    switch (result.outcome()) {
      case agent::v1::OUTCOME_SUCCEEDED:
        // Unwanted by now, a response need not be whole.
        if (!session.response_whole && session.stopped.ok()) {
          verdict = Lost("the agent reported success without a whole response");
          break;
        }
        verdict.outcome = hearth::v1::SUCCEEDED;
        break;
      case agent::v1::OUTCOME_FUNCTION_ERROR:
        verdict.outcome = hearth::v1::FUNCTION_ERROR;
        verdict.error = MakeError("Runtime.Unknown", "the function failed");
        break;
      case agent::v1::OUTCOME_TIMED_OUT:
        verdict = TimedOut(end.timeout);
        break;
      case agent::v1::OUTCOME_OUT_OF_MEMORY:
        verdict.outcome = hearth::v1::OUT_OF_MEMORY;
        verdict.error = MakeError("Sandbox.OutOfMemory", "the function ran out of memory");
        break;
      default:
        verdict = Lost("the agent reported an outcome that this hearthd does not know");
    }
    if (result.has_error() && verdict.outcome != hearth::v1::SUCCEEDED &&
        verdict.outcome != hearth::v1::INSTANCE_LOST) {
      verdict.error = SanitizeError(result.error());
    }
    verdict.reusable =
        result.reusable() && session.stopped.ok() &&
        (verdict.outcome == hearth::v1::SUCCEEDED || verdict.outcome == hearth::v1::FUNCTION_ERROR);
  }
  if (result.has_usage()) verdict.usage = SanitizeUsage(result.usage(), end.bounds);
  verdict.content_type = SanitizeContentType(result.content_type());
  return verdict;
}

}  // namespace hearth::control
