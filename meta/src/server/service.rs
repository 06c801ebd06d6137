//! The gRPC service `Meta`.

use std::sync::Arc;

use async_trait::async_trait;
use proto::meta as pb;
use tonic::{Request, Response, Status};

use super::MetaServer;

/// The gRPC face of [`MetaServer`].
pub struct MetaService {
    pub(super) server: Arc<MetaServer>,
}

#[async_trait]
impl pb::meta_server::Meta for MetaService {
    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Ok(Response::new(self.server.join(request.into_inner()).await?))
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        Ok(Response::new(self.server.report(request.into_inner()).await?))
    }

    async fn timestamps(
        &self,
        request: Request<pb::TimestampsRequest>,
    ) -> Result<Response<pb::TimestampsResponse>, Status> {
        let count = request.into_inner().count.clamp(1, crate::oracle::DRAW_MAX);
        let first = self.server.timestamps(count).await?;
        Ok(Response::new(pb::TimestampsResponse { first: first.0, count }))
    }

    async fn allocate(
        &self,
        request: Request<pb::AllocateRequest>,
    ) -> Result<Response<pb::AllocateResponse>, Status> {
        let request = request.into_inner();
        Ok(Response::new(self.server.allocate(request.groups, request.replicas).await?))
    }

    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        self.server.publish(request.into_inner().shards).await?;
        Ok(Response::new(pb::PublishResponse {}))
    }

    async fn map(&self, request: Request<pb::MapRequest>) -> Result<Response<pb::MapResponse>, Status> {
        let request = request.into_inner();
        let map = self.server.map(request.since, request.leaders_version)?;
        Ok(Response::new(pb::MapResponse { map: Some(map) }))
    }

    async fn waits(&self, request: Request<pb::WaitsRequest>) -> Result<Response<pb::WaitsResponse>, Status> {
        Ok(Response::new(self.server.waits(request.into_inner())?))
    }

    async fn change_settings(
        &self,
        request: Request<pb::ChangeSettingsRequest>,
    ) -> Result<Response<pb::ChangeSettingsResponse>, Status> {
        self.server.change_setting(request.into_inner()).await?;
        Ok(Response::new(pb::ChangeSettingsResponse {}))
    }

    async fn describe(
        &self,
        request: Request<pb::DescribeRequest>,
    ) -> Result<Response<pb::DescribeResponse>, Status> {
        Ok(Response::new(self.server.describe(request.into_inner())?))
    }

    async fn change_duty(
        &self,
        request: Request<pb::ChangeDutyRequest>,
    ) -> Result<Response<pb::ChangeDutyResponse>, Status> {
        Ok(Response::new(self.server.change_duty(request.into_inner()).await?))
    }

    async fn r#move(&self, request: Request<pb::MoveRequest>) -> Result<Response<pb::MoveResponse>, Status> {
        Ok(Response::new(self.server.begin_move(request.into_inner()).await?))
    }

    async fn cancel(
        &self,
        request: Request<pb::CancelRequest>,
    ) -> Result<Response<pb::CancelResponse>, Status> {
        Ok(Response::new(self.server.cancel(request.into_inner()).await?))
    }

    async fn transfer(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferResponse>, Status> {
        Ok(Response::new(self.server.transfer(request.into_inner()).await?))
    }

    async fn split(&self, request: Request<pb::SplitRequest>) -> Result<Response<pb::SplitResponse>, Status> {
        Ok(Response::new(self.server.split(request.into_inner()).await?))
    }

    async fn merge(&self, request: Request<pb::MergeRequest>) -> Result<Response<pb::MergeResponse>, Status> {
        Ok(Response::new(self.server.merge(request.into_inner()).await?))
    }

    async fn set_rule(
        &self,
        request: Request<pb::TableRule>,
    ) -> Result<Response<pb::SetRuleResponse>, Status> {
        Ok(Response::new(self.server.set_rule(request.into_inner()).await?))
    }

    async fn vacate(
        &self,
        request: Request<pb::VacateRequest>,
    ) -> Result<Response<pb::VacateResponse>, Status> {
        Ok(Response::new(self.server.vacate(request.into_inner()).await?))
    }

    async fn repair(
        &self,
        request: Request<pb::RepairRequest>,
    ) -> Result<Response<pb::RepairResponse>, Status> {
        Ok(Response::new(self.server.repair(request.into_inner()).await?))
    }
}
