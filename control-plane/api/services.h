// SPDX-License-Identifier: Apache-2.0
// The gRPC services. They only translate.
#pragma once

#include <memory>
#include <vector>

#include "control-plane/api/artifacts.h"
#include "control-plane/api/catalog.h"
#include "control-plane/api/deployer.h"
#include "control-plane/api/image_catalog.h"
#include "control-plane/api/invoker.h"
#include "control-plane/api/operations.h"
#include "control-plane/api/queries.h"
#include "control-plane/api/snapshots.h"
#include "control-plane/api/worker_pool.h"
#include "control-plane/limits.h"
#include "control-plane/metering/log_hub.h"

namespace grpc {
class Service;
}

namespace hearth::control {

// What the services translate to; all outlive them.
struct ServiceParts {
  Catalog* catalog;
  Deployer* deployer;
  Operations* operations;
  Invoker* invoker;
  Artifacts* artifacts;
  Queries* queries;
  Snapshots* snapshots;
  ImageCatalog* images;
  LogHub* logs;
  const ServerLimits* limits;
  WorkerPool* invocations;
  WorkerPool* followers;
  WorkerPool* waits;
};

using Services = std::vector<std::unique_ptr<grpc::Service>>;

void AddResourceServices(const ServiceParts& parts, Services* services);  // resource_services.cc
void AddInvocationServices(const ServiceParts& parts,
                           Services* services);                           // invocation_services.cc
void AddSnapshotServices(const ServiceParts& parts, Services* services);  // snapshot_services.cc
void AddLogServices(const ServiceParts& parts, Services* services);       // log_services.cc

}  // namespace hearth::control
