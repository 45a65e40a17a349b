//! New certificates for old ones, and certificates that are taken back.

use std::time::{Duration, SystemTime};

use moe2_net::{Accepted, ConnectError, JoinError, Revoked, connect, renew};
use moe2_wire::{EnrolError, EnrolReply};

use crate::fleet::{Fleet, HOUR, node, now};

/// Serves the next renewal as a coordinator does.
async fn serve(fleet: &mut Fleet, issue: bool) {
    let Some(Accepted::Join(mut connection)) = fleet.listener.accept().await else {
        panic!("somebody renews");
    };
    let request = connection.request().await.unwrap();
    assert_eq!(connection.peer_node(), Some(node()));
    let reply = if issue {
        let issued = fleet
            .authority
            .sign_agent(&request.csr_der, &node(), HOUR, now())
            .unwrap();
        EnrolReply::Issued {
            certificate_der: issued.certificate_der,
            ca_der: fleet.authority.ca_der().to_vec(),
        }
    } else {
        EnrolReply::Refused(EnrolError::Invalid)
    };
    connection.reply(reply).await.unwrap();
}

#[tokio::test]
async fn a_valid_certificate_is_renewed_with_another_key_and_the_new_one_is_good() {
    let mut fleet = Fleet::new();
    let old = fleet.identity(Duration::from_secs(1_800));
    let coordinator = fleet.coordinator.clone();
    let asked = old.clone();
    let renewing = tokio::spawn(async move { renew(&coordinator, &asked).await });
    serve(&mut fleet, true).await;
    let new = renewing.await.unwrap().unwrap();
    assert_eq!((&new.node, &new.ca_der), (&old.node, &old.ca_der));
    assert_ne!(new.key_pkcs8_der, old.key_pkcs8_der);
    assert!(new.not_after() > old.not_after());
    connect(&fleet.coordinator, &new, now()).await.unwrap();
}

#[tokio::test]
async fn a_refused_renewal_is_told() {
    let mut fleet = Fleet::new();
    let old = fleet.identity(Duration::ZERO);
    let coordinator = fleet.coordinator.clone();
    let renewing = tokio::spawn(async move { renew(&coordinator, &old).await });
    serve(&mut fleet, false).await;
    let error = renewing.await.unwrap().unwrap_err();
    assert!(
        matches!(error, JoinError::Refused(EnrolError::Invalid)),
        "{error}"
    );
}

#[test]
fn it_is_due_at_two_thirds_of_its_life() {
    let fleet = moe2_net::Authority::create(now()).unwrap();
    let identity = crate::fleet::identity(&fleet, &fleet, Duration::ZERO);
    let life = HOUR + Duration::from_secs(300);
    let due = identity
        .renew_at()
        .duration_since(SystemTime::now())
        .unwrap();
    let reckoned = HOUR - life / 3;
    assert!(
        due.abs_diff(reckoned) < Duration::from_secs(5),
        "{due:?}, {reckoned:?}"
    );
}

fn revoke(revoked: &Revoked, identity: &moe2_net::Identity) {
    let der = &identity.certificate_der;
    let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
    let serial = certificate.raw_serial().iter();
    revoked.revoke([serial.map(|byte| format!("{byte:02x}")).collect::<String>()]);
}

#[tokio::test]
async fn who_is_revoked_is_cut_off_and_neither_connects_nor_renews() {
    let mut fleet = Fleet::new();
    let identity = fleet.identity(Duration::ZERO);
    let other = fleet.identity(Duration::ZERO);
    let agent = connect(&fleet.coordinator, &identity, now()).await.unwrap();
    let peer = fleet.accept_agent().await;
    revoke(&fleet.revoked, &identity);
    let reason = peer.closed().await;
    assert!(reason.contains("revoked"), "{reason}");
    assert!(agent.closed().await.contains("revoked"));
    let error = connect(&fleet.coordinator, &identity, now())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Revoked), "{error}");
    let error = renew(&fleet.coordinator, &identity).await.unwrap_err();
    assert!(matches!(error, JoinError::Stream(_)), "{error}");
    connect(&fleet.coordinator, &other, now()).await.unwrap();
}
