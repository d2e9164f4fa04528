// SPDX-License-Identifier: Apache-2.0
// Long-running operations: started, followed to their end, cancelled by an interrupt.
#pragma once

#include <functional>
#include <string>

#include "cli/commands.h"

namespace hearth::cli {

struct OperationCall {
  std::string what;  // "deploy thumbnail", as in FromStatus.
  std::string work;  // "deployment": what an interrupt cancels.
  std::function<grpc::Status(grpc::ClientContext*, google::longrunning::Operation*)> start;
  // Shows how far it is; called again and again.
  std::function<void(const google::longrunning::Operation&)> show;
};

// The operation when it has ended, with success or not. Throws CliError when hearthd cannot be
// asked, and when it was interrupted: then it has had the operation cancelled.
google::longrunning::Operation RunOperation(Session& session, const OperationCall& call);

}  // namespace hearth::cli
