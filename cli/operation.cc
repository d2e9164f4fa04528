// SPDX-License-Identifier: Apache-2.0
#include "cli/operation.h"

#include <chrono>

#include "cli/format.h"

namespace hearth::cli {
namespace {

using google::longrunning::Operation;

// How long one call waits for an operation; between two of them the progress is shown.
constexpr double kWaitSeconds = 10;
constexpr double kWaitShowingSeconds = 0.2;
constexpr std::chrono::seconds kCancelTimeout{5};

[[noreturn]] void Cancel(Client& client, const std::string& operation, const std::string& work) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCancelTimeout);
  google::longrunning::CancelOperationRequest request;
  request.set_name(operation);
  google::protobuf::Empty empty;
  const grpc::Status status = client.operations->CancelOperation(&context, request, &empty);
  Failure failure;
  failure.exit_code = kExitInterrupted;
  failure.code = "CANCELLED";
  failure.message =
      "interrupted; the " + work +
      (status.ok() ? " was cancelled" : " could not be cancelled: " + status.error_message());
  throw CliError(std::move(failure));
}

}  // namespace

Operation RunOperation(Session& session, const OperationCall& call) {
  Client& client = session.client();
  // Each call has an action of its own. Between two of them an interrupt is noted only: the
  // operation must still be cancelled.
  const Interrupt::Scope scope(client.interrupt(), [] {});
  Operation operation;
  client.Call(call.what,
              [&](grpc::ClientContext* context) { return call.start(context, &operation); });
  const double wait = session.terminal.err_is_tty ? kWaitShowingSeconds : kWaitSeconds;
  while (!operation.done()) {
    call.show(operation);
    google::longrunning::WaitOperationRequest request;
    request.set_name(operation.name());
    *request.mutable_timeout() = FromSeconds(wait);
    const grpc::Status status = client.TryCall([&](grpc::ClientContext* context) {
      return client.operations->WaitOperation(context, request, &operation);
    });
    if (client.interrupt()->raised()) Cancel(client, request.name(), call.work);
    if (!status.ok()) throw CliError(FromStatus(status, call.what));
  }
  return operation;
}

}  // namespace hearth::cli
